"""``repic concepts init|check|list``."""

from __future__ import annotations

import argparse
from pathlib import Path

from repic_core.cli.options import Parser, add_command, add_commands, add_flags
from repic_core.cli.output import note, print_json


def add_concepts(parser: Parser) -> None:
    commands = add_commands(parser)
    more = (
        "photos/bo/1.jpg, photos/bo/2.jpg and photos/mira.jpg give the concepts <bo> and <mira>. What\n"
        "photos/bo/info.txt and photos/mira.txt say, if they exist, is the line of information in prompts."
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


def _counts(database: object) -> str:
    concepts = list(database)
    photos = sum(len(concept.images) for concept in concepts)
    return f"{len(concepts)} concept{'s' * (len(concepts) != 1)}, {photos} photo{'s' * (photos != 1)}"
