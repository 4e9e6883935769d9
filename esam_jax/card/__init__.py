"""`esam bench card`: what a card does with this package's programs, beside what is expected of it.

Each section runs in a process of its own (`section_process.py`), so that one which fails, hangs or
runs out of memory costs its own rows alone. `campaign.py` starts them and keeps what they report in
`card.json`; `markdown.py` makes the page of it.
"""
