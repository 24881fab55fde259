"""What travels, and every byte of it counted: packets, mail, contracts, layouts."""
