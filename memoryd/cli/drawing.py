"""Options that say how a reply is drawn, for all commands that have one written."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from memoryd_client import Sampling

_OPTIONS: dict[str, tuple[Any, object]] = {
    "temperature": (
        Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")],
        0.0,
    ),
    "top_k": (
        Annotated[int, typer.Option(min=0, help="Draw among the k likeliest; 0 is no limit.")],
        0,
    ),
    "top_p": (
        Annotated[float, typer.Option(min=0, max=1, help="Draw among the likeliest of this mass.")],
        0.0,
    ),
    "repetition_penalty": (
        Annotated[float, typer.Option(min=0, help="Above 1 avoids what was said.")],
        0.0,
    ),
    "seed": (
        Annotated[int | None, typer.Option(min=0, help="The same seed gives the same reply.")],
        None,
    ),
    "max_tokens": (
        Annotated[int, typer.Option(min=0, help="Longest reply; 0 is the daemon's limit.")],
        0,
    ),
    "stop": (
        Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")],
        None,
    ),
}


def with_sampling(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes `sampling`, as one that takes the options in its place.

    Typer reads options from a signature, and has no other way to share some.
    """

    def run(**given: Any) -> None:
        command(sampling=_sampling({name: given.pop(name) for name in _OPTIONS}), **given)

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name != "sampling":
            parameters.append(parameter)
            continue
        parameters += [
            inspect.Parameter(name, parameter.kind, default=default, annotation=option)
            for name, (option, default) in _OPTIONS.items()
        ]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _sampling(options: dict[str, Any]) -> "Sampling":
    from memoryd_client import Sampling

    return Sampling(**{**options, "stop": tuple(options["stop"] or ())})
