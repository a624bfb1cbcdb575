"""One run from data to record, its folder, and the queue of runs that the book waits for."""

from semid_lib._lazy import lazy

_HOMES = {
    "BUSY": "queue", "BusyError": "locks", "CODES": "records", "CODE_KEYS": "records",
    "CUTOFFS": "records", "Entry": "queue", "Estimate": "dry_run", "LATER": "queue",
    "METRICS": "records", "PAUSED": "queue", "RECORD_KEYS": "records", "Record": "records",
    "Row": "queue_list", "WORKER": "queue", "Work": "pipeline", "Workspace": "workspace",
    "check_record": "records", "check_writable": "records", "click_records": "records",
    "code_entries": "queue", "code_records": "records", "commit": "provenance",
    "count_parameters": "stages", "cuts_of": "records", "device_name": "provenance",
    "entries": "queue", "estimate": "dry_run", "is_name": "records", "is_smaller": "records",
    "load_record": "records", "load_records": "records", "locked": "locks", "minutes": "queue",
    "networks": "stages", "parse_duration": "queue", "peak_memory": "provenance",
    "read_cut": "records", "record_name": "records", "records_folder": "records",
    "run": "pipeline", "run_name": "records", "run_queue": "queue", "runs_folder": "workspace",
    "select": "queue", "slug": "records", "state": "queue", "versions": "provenance",
    "work": "queue", "write_record": "records",
}  # fmt: skip
__getattr__, __dir__, __all__ = lazy(__name__, _HOMES)
