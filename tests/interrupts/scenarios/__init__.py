"""The calls of a store that are interrupted everywhere, and the states in which they are made."""

from .opening import OPENING
from .queues import QUEUES
from .reads import READS
from .whole import WHOLE
from .writes import WRITES

SCENARIOS = {**WRITES, **READS, **WHOLE, **OPENING, **QUEUES}
