"""What this package measures about itself; every command prints the machine, versions and ratios, and writes JSON."""
