//! CPU time, as the kernel counts it.

use std::fs;

/// Ticks of a second in `/proc` (`USER_HZ`, proc(5)).
const TICKS: f64 = 100.0;

/// Seconds of CPU that were used so far, user and system.
pub(crate) struct CpuTime {
    /// By this process, all threads.
    pub(crate) own: f64,
    /// By children that have ended.
    pub(crate) children: f64,
}

impl CpuTime {
    pub(crate) fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        // The name may have spaces; it is followed by the fields from 3 on (proc(5)).
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let fields: Vec<_> = fields.split_whitespace().collect();
        let ticks = |field: usize| fields[field - 3].parse::<f64>().unwrap();
        Self {
            own: (ticks(14) + ticks(15)) / TICKS,
            children: (ticks(16) + ticks(17)) / TICKS,
        }
    }
}
