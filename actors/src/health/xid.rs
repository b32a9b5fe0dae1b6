//! What a driver error asks of the engine on that card. Pure; the numbers are NVIDIA's, the policy is ours.

/// What follows from one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The fault was the process's or is gone with it: a fresh engine cures it.
    Restart,
    /// The card is bad: what runs may end, then nothing more is placed there.
    Drain,
    /// The card is gone: nothing on it will ever end.
    Abandon,
    /// Not known to matter; counted and shown, no more.
    Note,
}

/// The remedy for an Xid.
pub const fn remedy(xid: u64) -> Remedy {
    match xid {
        // Engine exception, MMU fault, reset channel, illegal address in video memory, video processor exception.
        13 | 31 | 43 | 45 | 68 => Remedy::Restart,
        // Double-bit ECC, page retirement or row remapping, its failure, NVLink, link or memory errors that were
        // contained or not, and a firmware that stopped answering.
        48 | 63 | 64 | 74 | 94 | 95 | 119 => Remedy::Drain,
        // Fallen off the bus.
        79 => Remedy::Abandon,
        _ => Remedy::Note,
    }
}

/// Every label of [`label`].
pub const LABELS: [&str; 14] = ["13", "31", "43", "45", "48", "63", "64", "68", "74", "79", "94", "95", "119", "other"];

/// The metric label of an Xid: numbers without a policy share one, because the set must stay bounded.
pub const fn label(xid: u64) -> &'static str {
    match xid {
        13 => "13",
        31 => "31",
        43 => "43",
        45 => "45",
        48 => "48",
        63 => "63",
        64 => "64",
        68 => "68",
        74 => "74",
        79 => "79",
        94 => "94",
        95 => "95",
        119 => "119",
        _ => "other",
    }
}

/// The meaning of an Xid in a few words, for the operator.
pub const fn meaning(xid: u64) -> &'static str {
    match xid {
        13 => "graphics engine exception",
        31 => "memory page fault",
        43 => "the GPU stopped processing",
        45 => "channel torn down",
        48 => "double-bit ECC error",
        63 => "memory page retired or row remapped",
        64 => "page retirement or row remapping failed",
        68 => "video processor exception",
        74 => "NVLink error",
        79 => "the GPU has fallen off the bus",
        94 => "contained memory error",
        95 => "uncontained memory error",
        119 => "the GPU's firmware stopped answering",
        _ => "an error without a policy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_the_published_one() {
        for xid in [13, 31, 43, 45, 68] {
            assert_eq!(remedy(xid), Remedy::Restart, "{xid}");
        }
        for xid in [48, 63, 64, 74, 94, 95, 119] {
            assert_eq!(remedy(xid), Remedy::Drain, "{xid}");
        }
        assert_eq!(remedy(79), Remedy::Abandon);
        assert_eq!(remedy(8), Remedy::Note);
    }

    #[test]
    fn every_xid_with_a_policy_has_a_label_of_its_own_and_no_other_has() {
        for xid in 0..1000 {
            let known = remedy(xid) != Remedy::Note;
            assert_eq!(label(xid) == xid.to_string(), known, "{xid}");
            assert!(LABELS.contains(&label(xid)), "{xid}");
            assert_eq!(meaning(xid) != meaning(8), known, "{xid}");
        }
    }
}
