"""Bridges to other causal-inference packages, imported only when used."""
