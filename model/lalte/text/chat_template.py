"""Derives a TurnFormat from a model's chat template, by probing it.

The template (jinja2, as the Hugging Face hub defines it) is rendered over small conversations whose
contents are known words. What stands between the words is the framing. The result is then checked:
for several conversations the tokens of the rendered text must equal ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from lalte.text.errors import TurnFormatError
from lalte.text.turns import Frame, Role, TurnFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lalte.text.tokenizer import Tokenizer

Turn = tuple[Role, str]

_SYSTEM: Turn = (Role.SYSTEM, "Zephyrsysteme")
_USER: Turn = (Role.USER, "Quokkaquestion")
_ANSWER: Turn = (Role.ASSISTANT, "Walrusanswer")
_AGAIN: Turn = (Role.USER, "Ibexfollowup")

_CHECKS: tuple[tuple[Turn, ...], ...] = (
    (_USER,),
    (_SYSTEM, _USER),
    (_USER, _ANSWER, _AGAIN),
    (_SYSTEM, _USER, _ANSWER, _AGAIN),
    (_SYSTEM, _USER, _ANSWER, _AGAIN, _ANSWER, _USER),
    (
        (Role.USER, "Two lines,\nand 3 numbers: 12.5 (see below)."),
        (Role.ASSISTANT, "Ça va, 你好 🙂!"),
        (Role.USER, "x"),
    ),
)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A jinja2 chat template with the names that templates expect."""

    source: str
    bos: str
    eos: str

    def render(self, turns: Sequence[Turn], *, reply: bool) -> str:
        """Write the conversation as text; with `reply`, up to where the assistant would begin.

        Raises TurnFormatError with what the template said.
        """
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> NoReturn:
            raise jinja2.TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
            extensions=["jinja2.ext.loopcontrols"],
        )
        try:
            return environment.from_string(self.source).render(
                messages=[{"role": role.value, "content": text} for role, text in turns],
                add_generation_prompt=reply,
                bos_token=self.bos,
                eos_token=self.eos,
                tools=None,
                documents=None,
                raise_exception=refuse,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            roles = [role.value for role, _ in turns]
            raise TurnFormatError(f"rendering {roles} failed: {error}") from error


def derive_turn_format(
    template: str, tokenizer: Tokenizer, *, bos: str, eos: str, stop_ids: frozenset[int]
) -> TurnFormat:
    """Derive the framing that `template` gives system, user and assistant turns.

    bos, eos: the texts of the tokenizer's BOS and EOS tokens ("" for none).
    stop_ids: the model's own end tokens; the special token that closes an assistant turn is added.

    Raises TurnFormatError where the template is no plain concatenation of framed turns.
    """
    chat = ChatTemplate(template, bos, eos)
    suffixes = {
        Role.SYSTEM: _after(chat.render([_SYSTEM], reply=False), _SYSTEM),
        Role.USER: _after(chat.render([_USER], reply=False), _USER),
        Role.ASSISTANT: _after(chat.render([_USER, _ANSWER], reply=False), _ANSWER),
    }
    talk = chat.render([_SYSTEM, _USER, _ANSWER, _AGAIN], reply=False)
    prefixes = {
        Role.USER: _prefix(_between(talk, _ANSWER, _AGAIN), suffixes[Role.ASSISTANT], "user"),
        Role.ASSISTANT: _prefix(_between(talk, _USER, _ANSWER), suffixes[Role.USER], "assistant"),
    }
    head = _before(talk, _SYSTEM)
    # A BOS token that also opens later turns (ChatML's <|im_start|>) is framing, not a beginning.
    begin = bos if head.startswith(bos) and not prefixes[Role.USER].startswith(bos) else ""
    prefixes[Role.SYSTEM] = head.removeprefix(begin)
    default = _default_system(
        _before(chat.render([_USER], reply=False), _USER), begin, prefixes, suffixes
    )

    encode = tokenizer.encode_marked
    frames = {
        role: Frame(tuple(encode(prefixes[role])), tuple(encode(suffixes[role])))
        for role in prefixes
    }
    frames[Role.DOCUMENT] = frames[Role.USER]
    system = frames[Role.SYSTEM]
    default_ids = (
        ()
        if default is None
        else (*system.prefix, *tokenizer.encode_plain(default), *system.suffix)
    )
    closing = frames[Role.ASSISTANT].suffix[:1]
    stops = stop_ids.union(i for i in closing if i in tokenizer.special_ids)
    if not stops:
        raise TurnFormatError(
            "no token ends a reply: neither an EOS id nor a closing special token"
        )
    derived = TurnFormat(tuple(encode(begin)), frames, stops, default, default_ids, "chat_template")
    check_turn_format(derived, chat, tokenizer)
    return derived


def check_turn_format(turn_format: TurnFormat, chat: ChatTemplate, tokenizer: Tokenizer) -> None:
    """Compare tokens on several conversations, with and without a reply to come.

    Raises TurnFormatError that shows the first conversation on which they differ, and where.
    """
    for turns in _CHECKS:
        ours = turn_format.start(turns[0][0])
        for role, text in turns:
            ours += turn_format.open(role) + tokenizer.encode_plain(text) + turn_format.close(role)
        for reply in (False, True):
            if reply:
                ours = ours + turn_format.reply_prefix
            theirs = tokenizer.encode_marked(chat.render(turns, reply=reply))
            if ours != theirs:
                _report_difference(ours, theirs, turns, tokenizer)


def _report_difference(
    ours: list[int], theirs: list[int], turns: Sequence[Turn], tokenizer: Tokenizer
) -> NoReturn:
    same = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
        min(len(ours), len(theirs)),
    )
    show = [
        "".join(tokenizer.piece(i) for i in ids[max(0, same - 4) : same + 8])
        for ids in (ours, theirs)
    ]
    raise TurnFormatError(
        f"for turns {[role.value for role, _ in turns]} token {same} differs: framing turns one by "
        f"one gives {show[0]!r}, the template gives {show[1]!r}"
    )


def _default_system(
    head: str, begin: str, prefixes: dict[Role, str], suffixes: dict[Role, str]
) -> str | None:
    """Find the default system prompt in what precedes a first user turn; None for none."""
    if not head.startswith(begin) or not head.endswith(prefixes[Role.USER]):
        raise TurnFormatError(f"the first user turn is framed differently: {head!r}")
    between = head.removeprefix(begin).removesuffix(prefixes[Role.USER])
    if not between:
        return None
    opening, closing = prefixes[Role.SYSTEM], suffixes[Role.SYSTEM]
    if not (between.startswith(opening) and between.endswith(closing)):
        raise TurnFormatError(
            f"what precedes a first user turn, {between!r}, is no system turn of the form "
            f"{opening!r} ... {closing!r}"
        )
    return between.removeprefix(opening).removesuffix(closing)


def _position(text: str, turn: Turn) -> int:
    if text.count(turn[1]) != 1:
        raise TurnFormatError(f"the {turn[0].value} turn's content does not appear exactly once")
    return text.index(turn[1])


def _before(text: str, turn: Turn) -> str:
    return text[: _position(text, turn)]


def _after(text: str, turn: Turn) -> str:
    return text[_position(text, turn) + len(turn[1]) :]


def _between(text: str, first: Turn, second: Turn) -> str:
    return _after(_before(text, second), first)


def _prefix(gap: str, suffix: str, role: str) -> str:
    if not gap.startswith(suffix):
        raise TurnFormatError(
            f"the turn before {role} closes with {suffix!r} at the end of a conversation but with "
            f"{gap!r} inside it"
        )
    return gap.removeprefix(suffix)
