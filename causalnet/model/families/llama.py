"""Llama and the families that share its block: sequential, one norm before each mechanism."""

from causalnet.model.record import Family

RECORDS = (Family(("llama",)),)
