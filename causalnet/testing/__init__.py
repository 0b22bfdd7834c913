"""Networks with known answers, for our tests and for users'."""
