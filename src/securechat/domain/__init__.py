"""What chat is: values, commands, rules. Pure: no I/O, no clock, no loop, no log."""
