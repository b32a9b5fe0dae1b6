//! Places for connections: so many in all, so many from one address. Counts only.

use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

/// Open connections by the address they come from.
#[derive(Debug, Clone, Default)]
pub(super) struct ByAddress(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl ByAddress {
    /// A place for one more from there, unless `most` have one; 0 = no bound.
    pub(super) fn take(&self, address: IpAddr, most: usize) -> Option<Taken> {
        let address = one_owner(address);
        let mut open = self.0.lock();
        let count = open.entry(address).or_insert(0);
        if most > 0 && *count >= most {
            return None;
        }
        *count += 1;
        Some(Taken { from: self.clone(), address })
    }
}

/// Whoever has one IPv6 address has 2^64 of them.
fn one_owner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(super) struct Taken {
    from: ByAddress,
    address: IpAddr,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut open = self.from.0.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let open = ByAddress::default();
        let [one, other]: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let held: Vec<Taken> = (0..2).filter_map(|_| open.take(one, 2)).collect();
        assert_eq!(held.len(), 2);
        assert!(open.take(one, 2).is_none() && open.take(other, 2).is_some());
        assert!(open.take(one, 0).is_some(), "no bound");
        drop(held);
        assert!(open.take(one, 2).is_some());
        assert!(open.0.lock().is_empty(), "nothing is kept of who has gone");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_and_mapped_ipv4_as_itself() {
        let same = |a: &str, b: &str| one_owner(a.parse().unwrap()) == one_owner(b.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:1") && !same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("::ffff:10.0.0.1", "10.0.0.1") && !same("::ffff:10.0.0.1", "::ffff:10.0.0.2"));
    }
}
