"""What a Pyro program is to the package: programs, their traces, and handlers around them."""
