"""Where a command's source lies: here, or on the Hugging Face hub, from where it is brought."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from memoryd.cli.errors import Refused

if TYPE_CHECKING:
    from rich.console import Console

    from lalte.checkpoints.hub import HubFolder


def from_hub(source: str, revision: str | None, console: Console) -> HubFolder | None:
    """Bring a repository here; None where `source` is a path.

    A path that exists is never looked for on the hub. Raises Refused, and PullError.
    """
    from lalte.checkpoints.hub import is_repository_name

    here, named = Path(source).exists(), is_repository_name(source)
    if revision is not None and (here or not named):
        what = "lies on this machine" if here else "does not exist, and is no ORGANISATION/NAME"
        raise Refused(f"{source} {what}; --revision is for repositories on the hub")
    if here and named:
        note = f"{source} is here, and is used: the hub's repository of that name is not"
        console.print(escape(note), soft_wrap=True, highlight=False)
    if here or not named:
        return None
    return _download(source, revision, console)


def _download(repository: str, revision: str | None, console: Console) -> HubFolder:
    from lalte.checkpoints.hub import download

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(repository, total=None)

        def show(name: str, done: int, total: int) -> None:
            progress.update(task, description=name, completed=done, total=total)

        found = download(repository, revision, on_bytes=show)
        progress.update(task, description=f"{repository} at {found.commit[:12]}")
    return found
