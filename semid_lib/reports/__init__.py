"""Tables beside the papers', figures, claims and status, made from records."""

from semid_lib._lazy import lazy

_HOMES = {
    "BLACK": "plotting", "BLUE": "plotting", "GREEN": "plotting", "GREY": "plotting",
    "METHOD_STYLE": "plotting", "NOT_RUN": "tables", "ORANGE": "plotting", "PAPERS": "printed",
    "PARTS": "tables", "PURPLE": "plotting", "Run": "chapter", "SEQUENTIAL": "plotting",
    "SKY": "plotting", "Table": "tables", "VERDICTS": "verdicts",
    "VERMILLION": "plotting", "WIDTH": "plotting", "bars_with_intervals": "plotting",
    "claims": "verdicts", "figure": "plotting", "flow_diagram": "plotting",
    "format_number": "tables", "map_to_plane": "plotting", "method_style": "plotting",
    "paper_table": "printed", "printed_cells": "printed", "ratios": "progress",
    "setup": "chapter", "side_by_side": "beside", "status": "progress", "steady": "plotting",
    "summarise": "tables", "table": "tables", "use_style": "plotting",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
