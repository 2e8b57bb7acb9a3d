"""An address block as a picture: neighbours in the address space are neighbours in the picture (Hilbert's curve).

query_text(...)  ->  the query whose rows are the cells
heat(rows, ...)  ->  the cells: a value, zero, or no data, and that is not the same
svg, png         ->  the picture
"""
