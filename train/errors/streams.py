"""Standard output and error whose failures never stop a program.

A daemon may close them (`>&-`), a reader may leave (`| head`), the disk behind them may
be full, and a terminal or log may not know the letters ± and λ. A program whose result
goes to a file has to end the same way in all of these cases.
"""

import codecs
import contextlib
import io
import os
import sys

# What a terminal without Unicode shows for the characters that this project prints.
_PLAIN = {"±": "+/-", "²": "^2", "λ": "lambda", "ρ": "rho", "σ": "sigma", "γ": "gamma"}
_PLAIN |= {"×": "x", "−": "-", "–": "-", "—": "-", "…": "...", "→": "->", "·": "*"}
_PLAIN |= {"≤": "<=", "≥": ">=", "≈": "~", "∞": "inf", "°": " deg", "µ": "u", "μ": "u"}
_PLAIN |= dict.fromkeys("━─╸╺", "-") | dict.fromkeys("│┃", "|")
_PLAIN |= dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╯╰┏┓┗┛", "+")


def plain(error: UnicodeError) -> tuple[str, int]:
    """A codec error handler: a readable ASCII form of what cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    shown = (_PLAIN.get(c) or c.encode("unicode_escape").decode() for c in wrong)
    return "".join(shown), error.end


codecs.register_error("smooth_dreamer.plain", plain)


def encodable(text: str, encoding: str | None) -> str:
    """The text with what `encoding` (None: UTF-8) lacks in a readable ASCII form."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "smooth_dreamer.plain").decode(encoding)


class _Lossy(io.TextIOWrapper):
    """Leaves out what cannot be written, and goes on."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def prepare_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` take whatever is printed, without an error.

    Streams that somebody has put in place of Python's own are left as they are.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise the next file to be opened would become standard output.
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _lossy(stream))


def _lossy(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    with contextlib.suppress(OSError):
        stream.flush()
    errors = stream.errors
    if errors in ("strict", "backslashreplace"):
        errors = "smooth_dreamer.plain"
    return _Lossy(
        open(stream.fileno(), "wb", closefd=False),
        encoding=stream.encoding,
        errors=errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
