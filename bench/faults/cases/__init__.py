"""The faults, one module for each family; `CASES` names them all."""
