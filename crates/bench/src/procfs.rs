//! What Linux says of a process tree: CPU time and anonymous memory, from `/proc`.
//! Reads only; which processes belong to a target is told by a root process id.

use std::fs;

use anyhow::{Context, Result};

/// Processes followed below one root; more than any target has.
const PROCESSES_MAX: usize = 64;

/// CPU time used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CpuTime {
    pub(crate) user_s: f64,
    pub(crate) system_s: f64,
}

impl CpuTime {
    pub(crate) fn total_s(self) -> f64 {
        self.user_s + self.system_s
    }

    /// What was used since `earlier`.
    pub(crate) fn since(self, earlier: CpuTime) -> CpuTime {
        CpuTime { user_s: self.user_s - earlier.user_s, system_s: self.system_s - earlier.system_s }
    }
}

/// CPU time of processes and their descendants, all threads.
pub(crate) fn cpu_time(roots: &[u32]) -> Result<CpuTime> {
    sum_cpu_time(&tree(roots))
}

/// CPU time of this process alone; what it started is what it measures.
pub(crate) fn own_cpu_time() -> Result<CpuTime> {
    sum_cpu_time(&[std::process::id()])
}

fn sum_cpu_time(pids: &[u32]) -> Result<CpuTime> {
    // The kernel reports in units of 1/100 s on every Linux port (USER_HZ).
    const TICKS_PER_SECOND: f64 = 100.0;
    let mut sum = CpuTime::default();
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
        let (user, system) = parse_stat(&stat).with_context(|| format!("/proc/{pid}/stat"))?;
        sum.user_s += user as f64 / TICKS_PER_SECOND;
        sum.system_s += system as f64 / TICKS_PER_SECOND;
    }
    Ok(sum)
}

/// Anonymous resident memory of processes and their descendants.
pub(crate) fn anonymous_bytes(roots: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in tree(roots) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
        sum += parse_rss_anon(&status).with_context(|| format!("no RssAnon in /proc/{pid}/status"))?;
    }
    Ok(sum)
}

/// The roots and what they started, directly or not.
fn tree(roots: &[u32]) -> Vec<u32> {
    let mut found = roots.to_vec();
    let mut at = 0;
    while at < found.len() && found.len() < PROCESSES_MAX {
        for task in fs::read_dir(format!("/proc/{}/task", found[at])).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        at += 1;
    }
    found
}

/// `utime` and `stime`: fields 14 and 15, counted behind the name, which may hold spaces.
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn parse_rss_anon(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194304 100 0 0 0 11 22 0 0 20 0 1 0 100 1000 10";
        assert_eq!(parse_stat(stat), Some((11, 22)));
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn anonymous_memory_is_in_bytes() {
        assert_eq!(parse_rss_anon("VmRSS:\t 9 kB\nRssAnon:\t     123 kB\n"), Some(123 * 1024));
        assert_eq!(parse_rss_anon("VmRSS:\t 9 kB\n"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(cpu_time(&[pid]).is_ok() && own_cpu_time().is_ok());
        assert!(anonymous_bytes(&[pid]).is_ok_and(|bytes| bytes > 0));
    }
}
