"""The query language: text -> tree -> query, and back.

    text --parser--> tree (what was written) --build--> query (what is asked of the engine)

`grammar.lark` is the one place that says what is accepted. Parser, completion, the words of an error and the help all
come from it. A tree prints itself in one canonical way, and that text parses to the same tree.
"""
