"""A model's text as a person reads it: without its reasoning, markup and escapes.

Models write ``**<bo>**``, ``\\<bo\\>``, ``&lt;bo&gt;`` or ``<bo> naps.</s>`` and mean ``<bo>``; thinking models
write a block of reasoning first. Rewards, scores and judges read all of them by the functions of this file.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Collection

Span = tuple[int, int]

_ENTITY = re.compile(r"&(?:amp;)*(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,30});")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(n|[rt](?![a-z]))|([!-/:-@\[-`{-~]))")
# Qwen, DeepSeek and VLM-R1 write <think>, Mistral [THINK], Kimi-VL its own triangles, others tokens or channels. A
# block that is never closed goes on to the end. If the prompt held the opening tag, the answer begins after the
# closing one.
_THOUGHT = (
    r"(?:\w+[:_])?(?:think|thinking|thoughts?|reasoning|reason|reflection|analysis|scratchpad)(?:_process)?"
)
_OPENED = (
    rf"<\s*(?:{_THOUGHT})\s*>|<\|(?:begin_of_thought|START_THINKING|thinking|inner_prefix)\|>"
    r"|\[THINK\]|\u25c1think\u25b7"
)
_CLOSED = (
    rf"<\s*/\s*(?:{_THOUGHT})\s*>|<\|(?:end_of_thought|END_THINKING|/thinking|inner_suffix)\|>"
    r"|\[/THINK\]|\u25c1/think\u25b7"
)
_REASONING = [
    re.compile(r"<\|channel\|>(?:analysis|commentary).*?(?=<\|channel\|>final|\Z)", re.DOTALL),
    re.compile(r"<\|channel>thought.*?(?:<channel\|>|\Z)", re.DOTALL),
    re.compile(r"<\|channel\|>final(?:<\|message\|>)?"),
    re.compile(rf"(?:{_OPENED}).*?(?:{_CLOSED}|\Z)", re.DOTALL | re.IGNORECASE),
    re.compile(rf"\A.*(?:{_CLOSED})", re.DOTALL | re.IGNORECASE),
]
_FENCE = re.compile(r"^[ \t]*(?:```+|~~~+)[\w+-]*[ \t]*$", re.MULTILINE)
_COMMENT = re.compile(r"<!--(?:(?!<!--).)*?-->", re.DOTALL)
_INLINE = "b|i|u|s|q|em|strong|span|small|big|sub|sup|del|ins|mark|kbd|samp|var|tt|code|font|a|abbr|wbr"
_BLOCK = (
    "p|br|hr|div|ul|ol|li|dl|dt|dd|h[1-6]|pre|blockquote|table|thead|tbody|tr|td|th|center|html|head|body|img|image"
    "|video|audio|details|summary|figure|figcaption|section|article|header|footer|nav|aside|main|label|button|input"
    "|form|select|option|textarea|svg|path|style|canvas|iframe|(?:final_?)?answer|conclusion|description|text|output"
    "|response|caption|think|thinking|reasoning|unk|pad|bos|eos|cls|sep|eot|eop|sot|sop|eod|g?mask|sos|start|end"
    "|bbox|box|ref|obj|quad|points?"
    # Tokens of several words: <end_of_turn>, <image_soft_token>, <loc_123>, <extra_id_0>, <row_1_col_1>
    r"|(?:begin|start|end)_?of_?\w+|(?:\w+_)?(?:token|image|img|tool|im|bos|eos|pad)_\w+|\w+_(?:token|image|img|start|end)"
    r"|(?:loc|seg|unused|extra_id|patch_index|row|col)_?\d+\w*|global-img"
)
_ATTRIBUTES = r"(?:\s+[\w-]+\s*=[^<>]*|\s+(?:hidden|disabled|open|checked|controls|clear|selected|required))*"
# Within <|...|>; another word there, such as a name, is not a token.
_TOKEN = (
    r"\s*(?:(?:\w+_)?(?:start|end|pad|sep|id|tag|name|text|thought|prefix|middle|suffix|token|turn)"
    r"|(?:begin|start|end)_of_\w+|(?:image|video|audio|vision|tool)\w*|endoftext|user|assistant|system|channel|message"
    r"|return|call|constrain|think|unk|bos|eos|\d+)\s*"
)
# Markup of HTML and of tokenizers: <br>, </p>, <unk>, <|im_end|>, <0x0A>, [INST]. An element may have attributes.
_MARKUP = re.compile(
    rf"</?\s*(?P<inline>{_INLINE}){_ATTRIBUTES}\s*/?>"
    rf"|</?\s*(?P<block>{_BLOCK}){_ATTRIBUTES}\s*/?>"
    rf"|<\|(?P<token>{_TOKEN})\|>"
    r"|<0x[0-9A-F]{2}>|\[/?INST\]",
    re.IGNORECASE,
)
# *, ~~ and ` beside what they mark; _ only where it isn't inside a word, as in snake_case.
_EMPHASIS = re.compile(
    r"(?<=\S)\*+|\*+(?=\S)|(?<=\S)~~|~~(?=\S)|(?<![^\W_])`+(?=\S)|(?<=\S)`+(?![^\W_])"
    r"|(?<![^\W_])_+(?=\S)|(?<=\S)_+(?![^\W_])"
)
# Marks of footnotes and trade behind a word, and where a link leads; names there are not said.
_NOTE = re.compile(
    r"(?<=[^\W\d_])[\u2122\u2120\u00ae\u00a9\u00b9\u00b2\u00b3\u2070-\u2079\u2460-\u2473]+|<sup>\s*\[?\d{1,3}\]?\s*</sup>"
    r"|(?<=\])\((?:https?:|mailto:|[./#])[^()\s]*\)|\bhttps?://[^\s<>)\]]+",
    re.IGNORECASE,
)
_SOME = re.compile(
    r"[&\\<\[*~`_\u25c1:\u2122\u2120\u00ae\u00a9\u00b9\u00b2\u00b3\u2070-\u2079\u2460-\u2473]"
)  # without one of these, nothing is to be done


def answer(text: str) -> str:
    """`text` without its reasoning, as `as_read` cuts it, and otherwise as it is.

    >>> answer("<think>Is it the same dog? No.</think>\\n\\nyes"), answer("It has a collar.</think> no")
    ('yes', 'no')
    """
    for pattern in _REASONING:
        text = pattern.sub("", text)
    return text.strip()


def as_read(text: str, names: Collection[str] = ()) -> tuple[str, list[Span]]:
    """`text` as a person reads it, and where in `text` each of its characters was, as (start, end).

    Cut or resolved are: reasoning (``<think>...</think>``, also if it is not closed), HTML entities, backslash
    escapes, HTML and tokenizer markup, code fences, and Markdown's emphasis.

    Args:
        names: lower-case names that are not markup although they look like it, such as "s" for a concept ``<S>``.

    >>> as_read("**<bo>** naps.</s>")[0], as_read("&lt;s&gt; naps", names=["s"])[0]
    ('<bo> naps.', '<s> naps')
    """
    spans = [(i, i + 1) for i in range(len(text))]
    if not _SOME.search(text):
        return text, spans

    def markup(match: re.Match[str]) -> str:
        name = match["inline"] or match["block"] or match["token"] or ""
        return match.group() if name.strip().lower() in names else "" if match["inline"] else " "

    read = text, spans
    read = _replaced(_ENTITY, lambda m: _character(m.group(1)), *read)
    for pattern in _REASONING:
        read = _replaced(pattern, lambda m: "", *read)
    read = _replaced(_ESCAPE, _unescaped, *read)
    read = _replaced(_COMMENT, lambda m: "", *read)
    read = _replaced(_NOTE, lambda m: "", *read)
    read = _replaced(_MARKUP, markup, *read)
    read = _replaced(_FENCE, lambda m: "", *read)
    return _replaced(_EMPHASIS, lambda m: "", *read)


def _character(entity: str) -> str:
    """The character of an HTML entity; "&" and its name again if there is no such entity."""
    return html.unescape(f"&{entity};")


def _unescaped(match: re.Match[str]) -> str:
    if match[1]:
        code = int(match[1], 16)
        return match.group() if 0xD800 <= code < 0xE000 else chr(code)
    return match[3] or " "


def _replaced(
    pattern: re.Pattern[str], by: Callable[[re.Match[str]], str], text: str, spans: list[Span]
) -> tuple[str, list[Span]]:
    """`text` with each match replaced; what replaces it has the match's span."""
    if not pattern.search(text):
        return text, spans
    parts: list[str] = []
    places: list[Span] = []
    end = 0
    for match in pattern.finditer(text):
        if match.start() == match.end():
            continue
        new = by(match)
        parts += (text[end : match.start()], new)
        places += spans[end : match.start()]
        if new == match.group():
            places += spans[match.start() : match.end()]
        else:
            places += [(spans[match.start()][0], spans[match.end() - 1][1])] * len(new)
        end = match.end()
    return "".join((*parts, text[end:])), places + spans[end:]
