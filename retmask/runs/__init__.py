"""What lasts: the record of a run, its processes, turns at a device. It knows no job."""
