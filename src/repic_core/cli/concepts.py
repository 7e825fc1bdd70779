"""``repic concepts init|check|list|describe``."""

from __future__ import annotations

import argparse
from pathlib import Path

from repic_core.cli.options import (
    Parser,
    add_command,
    add_commands,
    add_flags,
    at_least,
    chosen,
    load_chosen,
)
from repic_core.cli.output import note, print_json


def add_concepts(parser: Parser) -> None:
    commands = add_commands(parser)
    more = (
        "photos/bo/1.jpg, photos/bo/2.jpg and photos/mira.jpg give the concepts <bo> and <mira>. What\n"
        "photos/bo/info.txt and photos/mira.txt say, if they exist, is the line of information in prompts.\n"
        'It writes {"concept_dict": {"<mira>": {"name": "mira", "image": "mira.jpg", "info": "..."}}}'
    )
    line, example = "make a database from a folder of photos", "repic concepts init photos"
    init = add_command(commands, "init", _init, line, example, more=more)
    init.add_argument("folder", metavar="FOLDER", help="the folder of photos")
    init.add_argument(
        "--out", type=Path, metavar="FILE", help="the database's file (default: FOLDER/database.json)"
    )
    init.add_argument(
        "--categories", action="store_true", help="guess categories from the names, such as dog from dog2"
    )
    init.add_argument("--replace", action="store_true", help="replace a database that exists")
    add_flags(init, "--root", help="what image paths become relative to (default: the database's folder)")
    add_flags(init, "--json")

    example = "repic concepts check photos/database.json"
    check = add_command(commands, "check", _check, "load a database and look at its photos", example)
    example = "repic concepts list photos/database.json"
    listing = add_command(commands, "list", _list, "print the concepts of a database", example)
    for command in (check, listing):
        command.add_argument("file", metavar="FILE", help="the database")
        add_flags(command, "--root", "--json")

    line = "have a model write the missing lines of information"
    example = "repic concepts describe photos/database.json --model Qwen/Qwen2.5-VL-7B-Instruct"
    writing = add_command(commands, "describe", _describe, line, example)
    writing.add_argument("file", metavar="FILE", help="the database; it gets the lines")
    add_flags(writing, "--root", "--model", "--adapter", "--max-pixels", "--side", "--device", "--json")
    writing.add_argument(
        "--neighbours",
        type=at_least(0),
        default=3,
        metavar="K",
        help="concepts that look most alike, from which each is told apart (default: %(default)s)",
    )
    writing.set_defaults(system=None, system_text=None, system_file=None)
    writing.add_argument("--all", action="store_true", help="also replace the lines that exist")


def _init(options: argparse.Namespace) -> None:
    from repic_core.data.photo_folder import database_from_folder
    from repic_core.io.locks import locked

    out = options.out or Path(options.folder) / "database.json"
    _check_free(options, out)
    database = database_from_folder(options.folder, options.categories)
    with locked(out):
        _check_free(options, out)  # photos take a while to read
        database.save(out, options.root or out.parent)
    if options.json:
        print_json({"file": str(out), "concepts": [concept.tag for concept in database]})
        return
    print(f"{out}: {_counts(database)}: {', '.join(concept.tag for concept in database)}")
    bare = [concept.tag for concept in database if not concept.info]
    if bare:
        note(options, f"without a line of information: {', '.join(bare)}; write what each is into {out}")


def _check_free(options: argparse.Namespace, out: Path) -> None:
    if out.exists() and not options.replace:
        raise ValueError(f"{out}: exists; give another --out, or --replace to write it again")


def _check(options: argparse.Namespace) -> None:
    from repic_core.concepts.database import ConceptDatabase

    database = ConceptDatabase.load(options.file, options.root)
    photos = sum(len(concept.images) for concept in database)
    if options.json:
        print_json({"file": options.file, "concepts": len(database), "photos": photos})
    else:
        print(f"{options.file}: {_counts(database)}, no problems found")


def _list(options: argparse.Namespace) -> None:
    from repic_core.concepts.database import ConceptDatabase
    from repic_core.io.tables import markdown

    database = ConceptDatabase.load(options.file, options.root, check_images=False)
    if options.json:
        fields = ("tag", "name", "info", "category")
        found = [{field: getattr(concept, field) for field in fields} for concept in database]
        print_json([one | {"photos": list(c.images)} for one, c in zip(found, database, strict=True)])
        return
    rows = [[c.tag, c.name, str(len(c.images)), c.info] for c in database]
    print(markdown(["tag", "name", "photos", "info"], rows))


def _describe(options: argparse.Namespace) -> None:
    from repic_core.captioner.captioner import Captioner
    from repic_core.concepts.database import ConceptDatabase
    from repic_core.models.toys import is_toy_model
    from repic_core.retrieval.embedders import TowerEmbedder
    from repic_core.retrieval.infos import write_infos, writer
    from repic_core.toyworld.infos import toy_writer

    database = ConceptDatabase.load(options.file, options.root)
    found = chosen(options)
    model, processor = load_chosen(found, options.adapter, options.device)
    embedder = TowerEmbedder(model, processor, found.side)
    captioner = Captioner(model, processor, system=None)
    write = toy_writer(captioner) if is_toy_model(model) else writer(captioner)
    lines = {}
    for concept, remark in write_infos(database, write, embedder, options.neighbours, options.all):
        if remark:
            note(options, f"{concept.tag}: {remark}")
        if concept.info == database[concept.tag].info:
            continue
        with database.changing():
            database.update(concept)
            database.save()
        lines[concept.tag] = concept.info
        if not options.json:
            print(f"{concept.tag}: {concept.info}")
    if options.json:
        print_json(lines)
    elif not lines:
        note(options, "no line was written")


def _counts(database: object) -> str:
    concepts = list(database)
    photos = sum(len(concept.images) for concept in concepts)
    return f"{len(concepts)} concept{'s' * (len(concepts) != 1)}, {photos} photo{'s' * (photos != 1)}"
