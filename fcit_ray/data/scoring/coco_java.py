"""The two Java programs that pycocoevalcap brings: the Penn Treebank tokenizer and METEOR 1.5.

They are run with the library's own arguments and jars, but not through its Python wrappers, which write into the
installed package, print to the console, wait for ever once METEOR dies (its lock is never given back), and give every
later caption its neighbour's words when one of them holds a line break other than a line feed.
"""

import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from pycocoevalcap.meteor import meteor as _meteor
from pycocoevalcap.tokenizer import ptbtokenizer as _ptb

from fcit_ray.errors import JavaError

_TOKENIZER = Path(_ptb.__file__).with_name(_ptb.STANFORD_CORENLP_3_4_1_JAR)
_METEOR = Path(_meteor.__file__).with_name(_meteor.METEOR_JAR)
# One thread that collects garbage: on busy cores METEOR started within a minute with it and in ten without. Text is
# UTF-8 wherever the machine stands, and numbers have points: METEOR dies of a locale with decimal commas.
_JAVA = ("java", "-XX:+UseSerialGC", "-Xmx2G", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US")
_LINE_BREAKS = re.compile("[\n\r\x0b\x0c\u2028\u2029]")  # all that the tokenizer takes for one
_INSTALL = "install a Java runtime, 8 or later (Debian: apt install default-jre-headless; conda: openjdk)"


def tokenize(captions: Sequence[str]) -> list[str]:
    """Split captions into lower-case Penn Treebank words, without punctuation, joined by spaces.

    Line breaks count as spaces. An empty caption stays empty.

    Raises:
        JavaError: no Java, or the tokenizer failed.
    """
    lines = [_LINE_BREAKS.sub(" ", caption) for caption in captions]
    spoken = [line for line in lines if line.strip()]
    command = [*_JAVA, "-cp", str(_TOKENIZER), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    try:
        done = subprocess.run(
            command, input="".join(f"{line}\n" for line in spoken).encode("utf-8", "replace"), capture_output=True
        )
    except OSError as error:
        raise _no_java(error) from error
    found = done.stdout.decode("utf-8", "replace").split("\n")[:-1]
    if done.returncode:
        raise _failed("the Penn Treebank tokenizer", done.returncode, done.stderr)
    if len(found) != len(spoken):
        raise JavaError(f"the Penn Treebank tokenizer gave words for {len(found)} of {len(spoken)} captions")
    words = iter([word for word in line.split(" ") if word and word not in _ptb.PUNCTUATIONS] for line in found)
    return [" ".join(next(words)) if line.strip() else "" for line in lines]


def meteor(said: Sequence[str], wanted: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """METEOR of a corpus, 0..1, and of each of its captions, over tokenized text.

    Args:
        said: one caption a picture.
        wanted: the references of each picture, at least one.

    Raises:
        JavaError: no Java, or METEOR failed or was killed.
    """
    command = [*_JAVA, "-jar", str(_METEOR), "-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryFile() as complaints:  # a file: a pipe that nobody reads would stop METEOR once it is full
        try:
            process = subprocess.Popen(
                command, cwd=_METEOR.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints
            )
        except OSError as error:
            raise _no_java(error) from error
        assert process.stdin is not None, "opened as a pipe"
        assert process.stdout is not None, "opened as a pipe"
        try:
            stats = [
                _ask(process.stdin, process.stdout, " ||| ".join(["SCORE", *map(_clean, references), _clean(caption)]))
                for caption, references in zip(said, wanted, strict=True)
            ]
            each = [float(_ask(process.stdin, process.stdout, " ||| ".join(["EVAL", *stats])))]
            each += [float(process.stdout.readline()) for _ in said[1:]]
            return float(process.stdout.readline()), each
        except (OSError, ValueError):  # a broken pipe; a line that is no number, as the empty one of a dead process
            with suppress(subprocess.TimeoutExpired):  # it is dying: let it end by itself, so that its code tells why
                process.wait(5)
            process.kill()
            process.wait()
            complaints.seek(0)
            raise _failed("METEOR", process.returncode, complaints.read()) from None
        finally:
            process.kill()
            with suppress(OSError):  # what a dead process has not read cannot be written
                process.stdin.close()
            process.stdout.close()
            process.wait()


@functools.cache  # not once an experiment: METEOR takes seconds to read its paraphrases
def check_java() -> None:
    """Try both programs on one caption.

    Raises:
        JavaError: they cannot be run here.
    """
    if shutil.which("java") is None:
        raise _no_java(None)
    words = tokenize(["A dog runs."])
    if words != ["a dog runs"]:
        raise JavaError(f"the Penn Treebank tokenizer made {words} of 'A dog runs.'; reinstall pycocoevalcap")
    meteor(words, [words])


def _ask(to: IO[bytes], back: IO[bytes], line: str) -> str:
    to.write(f"{line}\n".encode("utf-8", "replace"))
    to.flush()
    return back.readline().decode("utf-8", "replace").strip()


def _clean(text: str) -> str:
    """Without METEOR's own separator, and the double space that it leaves."""
    return text.replace("|||", "").replace("  ", " ")


def _no_java(error: OSError | None) -> JavaError:
    reason = f" ({error})" if error and not isinstance(error, FileNotFoundError) else ""
    return JavaError(f"java cannot be run{reason}: {_INSTALL}")


def _failed(program: str, code: int, said: bytes) -> JavaError:
    ended = f"was killed by signal {-code} (out of memory?)" if code < 0 else f"ended with code {code}"
    words = said.decode("utf-8", "replace").strip().splitlines()
    return JavaError(f"{program} {ended}" + (f"; it said: {' / '.join(words[-3:])}" if words else ""))
