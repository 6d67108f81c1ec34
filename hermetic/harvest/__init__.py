"""Takes the finished artefacts out of a stage that need not end by itself.

`evidence` is what can be known of a stage at one moment, `judge` decides on it, `watch` says when to look and when to
stop; these three are pure. `session` walks through one stage: freeze, judge, kill, judge again on the dead tree.
`place`, `wake` and `site` read the machine, `taking` moves what was judged.
"""

from hermetic.harvest.evidence import File, Outcome
from hermetic.harvest.session import Conclusion, Ended, Session
from hermetic.harvest.site import RealSite
from hermetic.harvest.taking import take, too_small
from hermetic.harvest.watch import Limits as WatchLimits
from hermetic.harvest.watch import Watch

__all__ = ["Conclusion", "Ended", "File", "Outcome", "RealSite", "Session", "Watch", "WatchLimits", "take", "too_small"]
