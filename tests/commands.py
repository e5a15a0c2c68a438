"""What commands say of wrong arguments."""

import pytest


def usage_error(capsys, main, arguments):
    """Return the one line that a command says of arguments it does not take, with exit code 2."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert exit_.value.code == 2
    return line
