"""A shared body, a head of each client's own, and a strategy of one's own."""
