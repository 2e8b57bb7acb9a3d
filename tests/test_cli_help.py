"""Help, examples, version, completion and docs/commands.md: there, and telling the same."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from cli_support import ROOT, Ended, _run, done, failed, jlogctl, jlogd, process

from jlogd.cli import docs

PROGRAMS = docs.programs()
COMMANDS = {path: command for root in PROGRAMS.values() for path, command in docs.walk(root)}
PAGE = ROOT / "docs" / "commands.md"


def run(path: str, *args: object) -> Ended:
    program, *words = path.split()
    return _run(PROGRAMS[program], program, (*words, *args), b"")


@pytest.mark.parametrize("path", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help_with_an_example(path: str, flag: str) -> None:
    shown = done(run(path, flag)).out
    # `cidr as-logger` is also the program `as_logger`.
    programs = (path.split()[0], path.split()[-1].replace("-", "_"))
    assert "Examples:" in shown and any(f"{name} " in shown.partition("Examples:")[2] for name in programs)
    assert COMMANDS[path].get_short_help_str(200).endswith(".")
    assert "..." not in done(run(path.split()[0], "-h")).out.partition("Commands:")[2]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_and_argument_is_explained(path: str) -> None:
    for one in COMMANDS[path].params:
        if isinstance(one, click.Option):
            assert one.help, (path, one.name)
            assert one.is_flag or one.metavar or isinstance(one.type, click.Choice), (path, one.name)
        else:
            assert one.metavar, (path, one.name)


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_without_what_it_needs_shows_how_it_is_used(path: str) -> None:
    command = COMMANDS[path]
    if not command.no_args_is_help and not any(one.required for one in command.params):
        return
    ended = run(path)
    assert ended.code == 2
    assert "Usage:" in ended.err and "Examples:" in ended.err and not ended.raw


@pytest.mark.parametrize("line", sorted({line for one in COMMANDS.values() for line in docs.examples(one)}))
def test_every_example_is_accepted_by_its_command(line: str) -> None:
    for part in re.split(r"\s\|\s", line.split(" > ")[0]):
        words = shlex.split(part)
        if words[0] not in PROGRAMS:
            continue
        command: click.Command = COMMANDS[words[0]]
        rest = words[1:]
        context = click.Context(command, info_name=words[0])
        while isinstance(command, click.Group):
            with click.Context(command, info_name=words[0]) as own:
                _, rest, _ = command.make_parser(own).parse_args(rest)
            if not rest:
                break
            command = command.commands[rest.pop(0)]
        if isinstance(command, click.Group):
            continue
        with command.make_context(command.name, rest, parent=context):
            pass


def test_the_page_of_commands_is_current() -> None:
    assert PAGE.read_text() == docs.page(), "run: python -m jlogd.cli.docs > docs/commands.md"


def test_the_page_of_commands_names_every_command_option_and_exit_code() -> None:
    page = PAGE.read_text()
    for path, command in COMMANDS.items():
        assert f"# {path}\n" in page
        for one in command.params:
            if isinstance(one, click.Option) and one.name not in ("help", "version"):
                assert one.opts[0] in page.partition(f"# {path}\n")[2].partition("\n#")[0]
    for word in ("_JLOGCTL_COMPLETE", "JLOGD_DEBUG", "**Exit codes.**", "PLACE", "`-N`"):
        assert word in page


@pytest.mark.parametrize("program", PROGRAMS)
def test_version(program: str) -> None:
    assert re.fullmatch(rf"{program} \d+\.\d+\S*\n", done(run(program, "--version")).out)


def test_the_shell_completes_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_JLOGCTL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "jlogctl su")
    monkeypatch.setenv("COMP_CWORD", "1")
    with process() as ended:
        assert ended.communicate(timeout=30)[0] == b"plain,subscriber\n"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("-s", "var/log"), "jlogctl subscriber list LOG"),
        (("-a", "sub", "var/log"), "jlogctl subscriber add LOG NAME"),
        (("-e", "sub", "var/log"), "jlogctl subscriber remove LOG NAME"),
        (("-c", "var/log"), "gone, because segments go by themselves"),
        (("-R", "var/log"), "jlogctl repair LOG"),
        (("-r", "var/log"), "damaged records are not cut out"),
        (("subscriber", "-l", "var/log"), "jlogctl subscriber list LOG"),
        (("clean", "var/log"), "gone, because segments go by themselves"),
        (("jlogtail",), "jlogctl tail"),
        (("tial", "var/log"), "did you mean tail?"),
        (("STAT", "var/log"), "did you mean stat?"),
        (("subscriber", "ad", "var/log"), "did you mean add?"),
        (("subscriber", "frobnicate"), "there are: add, caps, clone, list, remove, set"),
        (("frobnicate",), "there are: append, check, check-spool"),
        (("check-config", "x"), "'check-config'; that is `jlogd check-config`"),
        (("keyz",), "'keyz'; did you mean `jlogd keys`?"),
        (("./var/log",), "the command comes first: jlogctl stat ./var/log"),
    ],
)
def test_old_and_mistyped_words_are_answered_with_the_new_ones(words: tuple[str, ...], hint: str) -> None:
    failed(jlogctl(*words), 2, hint)


def test_a_command_of_the_other_program_is_told_as_that() -> None:
    failed(jlogd("stat", "var/log"), 2, "there is no command 'stat'; that is `jlogctl stat`")
    failed(jlogd("tial"), 2, "did you mean `jlogctl tail`?")
    failed(jlogd("rnu"), 2, "did you mean run?")
    failed(jlogd("subscriber", "list"), 2, "that is `jlogctl subscriber`")


def test_an_unknown_flag_is_named() -> None:
    failed(jlogctl("stat", "--jsn", "x"), 2, "--jsn")
    failed(jlogctl("-z"), 2, "-z")


def test_a_link_to_the_programs_is_declared() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for program in ("jlogd", "jlogctl"):
        assert f'{program} = "jlogd.cli.{program}:main"' in text
        assert Path(ROOT / "jlogd" / "cli" / f"{program}.py").is_file()


def test_the_examples_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of `jlogctl` on a directory, run in an order in which the help would be read."""
    monkeypatch.chdir(tmp_path)
    Path("old.log").write_bytes(b"Failed password for root\n" * 20)
    done(jlogctl("create", "var/spool/mainlog", "--subscriber", "master"))
    skipped = []
    order = ["append", *(f"subscriber {word}" for word in ("add", "list", "set", "caps", "clone", "remove"))]
    for path in (*order, "stat", "list", "check", "tail", "create"):
        for line in docs.examples(COMMANDS[f"jlogctl {path}"]):
            words = shlex.split(
                line.partition(" > ")[0].replace("/var/log/syslog", "old.log").replace("/*", "/mainlog")
            )
            if (
                "tcp://" in line
                or words[0] != "jlogctl"
                or line.endswith("create var/spool/mainlog --subscriber master")
            ):
                skipped.append(line)
                continue
            done(jlogctl(*words[1:]))
    assert len(skipped) < 8
