//! What the kernel says of a process: its children, their state, its open files, its memory. Read from /proc, so Linux
//! only.

use std::{collections::BTreeSet, fs, path::Path};

/// A process that cannot be mistaken for a later owner of its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: u32,
    started: u64,
}

#[derive(Debug, Clone, Copy)]
struct Stat {
    state: char,
    parent: u32,
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

impl Process {
    pub fn of(pid: u32) -> Option<Self> {
        stat(pid).map(|stat| Self { pid, started: stat.started })
    }

    fn stat(&self) -> Option<Stat> {
        stat(self.pid).filter(|stat| stat.started == self.started)
    }

    /// Neither gone nor a zombie.
    pub fn is_alive(&self) -> bool {
        self.stat().is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
    }

    /// Dead, but not reaped by `parent`.
    pub fn is_zombie(&self) -> bool {
        self.stat().is_some_and(|stat| stat.state == 'Z')
    }
}

/// Every child of `parent`, zombies too.
pub fn children(parent: u32) -> BTreeSet<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeSet::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent))
        .filter_map(Process::of)
        .collect()
}

pub fn zombies_of(parent: u32) -> Vec<Process> {
    children(parent).into_iter().filter(Process::is_zombie).collect()
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Open files of `pid`, but for TCP connections to and from others: clients and pools keep those open as they like.
pub fn open_files(pid: u32) -> Vec<String> {
    let tcp = established(pid);
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let target = |path: &Path| fs::read_link(path).ok().map(|target| target.to_string_lossy().into_owned());
    let mut open: Vec<String> = entries.filter_map(|entry| target(&entry.ok()?.path())).collect();
    open.retain(|target| socket_inode(target).is_none_or(|inode| !tcp.contains(inode)));
    open.sort();
    open
}

fn socket_inode(target: &str) -> Option<&str> {
    target.strip_prefix("socket:[")?.strip_suffix(']')
}

/// Inodes of TCP sockets that do not listen.
fn established(pid: u32) -> BTreeSet<String> {
    const LISTEN: &str = "0A";
    let mut inodes = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/net/{table}")) else { continue };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let (Some(state), Some(inode)) = (fields.get(3), fields.get(9))
                && *state != LISTEN
            {
                inodes.insert((*inode).to_owned());
            }
        }
    }
    inodes
}
