"""What every script shares. Its first import makes Ctrl-C end a script in one line, also while it imports more."""

from mtdiff.commands import command as command
