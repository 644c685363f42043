//! What the system says of this process, under the names that all Prometheus clients use. What it does not say is left
//! out. Must not keep anything open: it is read on a shard, between turns.

use std::fs;

use rustix::param::clock_ticks_per_second;
use rustix::process::{Resource, getrlimit};
use tidewire_core::Timestamp;

use super::histogram::seconds;
use super::page::Page;

pub(super) fn write(page: &mut Page, started: Timestamp) {
    if let Some((cpu_us, threads)) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(stat) {
        page.counter("process_cpu_seconds_total", "CPU time used, in user and system mode.")
            .is(seconds(cpu_us));
        page.gauge("process_threads", "Threads of the process.").is(threads);
    }
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        if let Some(bytes) = memory(&status, "VmRSS:") {
            page.gauge("process_resident_memory_bytes", "Memory that is resident.").is(bytes);
        }
        if let Some(bytes) = memory(&status, "VmSize:") {
            page.gauge("process_virtual_memory_bytes", "Memory that is mapped.").is(bytes);
        }
    }
    if let Some(count) = open_descriptors() {
        page.gauge("process_open_fds", "File descriptors that are open.").is(count);
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        page.gauge("process_max_fds", "The most file descriptors that the system allows.").is(most);
    }
    let started = seconds(started.0.saturating_mul(1000));
    page.gauge("process_start_time_seconds", "When the server started, in seconds since 1970.").is(started);
}

/// What the process takes: memory, descriptors and the most of them, processor time in microseconds.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Taken {
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
    pub(super) cpu_us: Option<u64>,
}

pub(super) fn taken() -> Taken {
    let status = fs::read_to_string("/proc/self/status").ok();
    let stat = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(stat);
    Taken {
        resident_bytes: status.and_then(|status| memory(&status, "VmRSS:")),
        open_fds: open_descriptors(),
        max_fds: getrlimit(Resource::Nofile).current,
        cpu_us: stat.map(|(cpu_us, _)| cpu_us),
    }
}

/// Processor time in microseconds and resident bytes: what is read at little cost.
pub(super) fn cpu_and_memory() -> (Option<u64>, Option<u64>) {
    let status = fs::read_to_string("/proc/self/status").ok();
    let stat = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(stat);
    (stat.map(|(cpu_us, _)| cpu_us), status.and_then(|status| memory(&status, "VmRSS:")))
}

/// The CPU time in microseconds and the number of threads, from `/proc/self/stat` (proc_pid_stat(5)).
fn stat(text: &str) -> Option<(u64, u64)> {
    // The second field is the program's name, which may hold anything; it ends with the last parenthesis.
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)?.checked_add(number(15)?)?;
    Some((ticks.saturating_mul(1_000_000) / clock_ticks_per_second(), number(20)?))
}

fn memory(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Linux says how many there are as the directory's size, from 6.2 on. Before, they have to be counted.
fn open_descriptors() -> Option<u64> {
    const DESCRIPTORS: &str = "/proc/self/fd";
    match fs::metadata(DESCRIPTORS).ok()?.len() {
        // The one that reads the directory is not counted.
        0 => Some((fs::read_dir(DESCRIPTORS).ok()?.count() as u64).saturating_sub(1)),
        count => Some(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_does_not_get_in_the_way() {
        let text = "7 (a b) c) 9 8) S 1 7 7 0 -1 4194560 10 0 0 0 150 50 0 0 20 0 4 0 99 1000 20 18446744073709551615";
        let ticks_us = 1_000_000 / clock_ticks_per_second();
        assert_eq!(stat(text), Some((200 * ticks_us, 4)));
        assert_eq!(stat("7 (x) S 1"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(memory("Name:\tx\nVmRSS:\t    1234 kB\n", "VmRSS:"), Some(1234 * 1024));
        assert_eq!(memory("Name:\tx\n", "VmRSS:"), None);
    }
}
