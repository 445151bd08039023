//! Pure. Whose request it is: the other end of the connection, or whom a trusted proxy there names. Does not look names up.

use std::net::{IpAddr, SocketAddr};

use crate::ip_range::IpRange;

/// The client's address, by the values of all `X-Forwarded-For` headers in their order. Each proxy adds to the right what it
/// saw, so from there the first that is no trusted proxy counts; what stands left of it may be made up. Where nothing can be
/// believed it is the peer.
pub fn client_address<'a>(peer: IpAddr, forwarded: impl IntoIterator<Item = &'a str>, trusted: &[IpRange]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|range| range.contains(address));
    let peer = peer.to_canonical();
    if !is_trusted(peer) {
        return peer;
    }
    let values: Vec<&str> = forwarded.into_iter().flat_map(|value| value.split(',')).collect();
    for value in values.into_iter().rev() {
        match address_of(value) {
            None => return peer,
            Some(address) if is_trusted(address) => {}
            Some(address) => return address,
        }
    }
    peer
}

/// An address as proxies write it: some add the port.
fn address_of(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    bare.or_else(with_port).or_else(in_brackets).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> String {
        let trusted: Vec<IpRange> = ["10.0.0.0/8", "fd00::/8"].map(|range| range.parse().expect("a range")).into();
        client_address(peer.parse().expect("an address"), forwarded.iter().copied(), &trusted).to_string()
    }

    #[test]
    fn a_client_is_whom_the_nearest_trusted_proxy_names() {
        for (peer, forwarded, expected) in [
            ("192.0.2.1", &[][..], "192.0.2.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9, 10.2.2.2"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9", "10.2.2.2,10.3.3.3"], "203.0.113.9"),
            ("fd00::1", &["2001:db8::7"], "2001:db8::7"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("10.0.0.1", &["[2001:db8::7]"], "2001:db8::7"),
        ] {
            assert_eq!(client(peer, forwarded), expected, "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn what_a_client_makes_up_is_not_believed() {
        for (peer, forwarded, expected) in [
            // Not from a trusted proxy at all.
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            // The client wrote the left part; the proxy added what it saw.
            ("10.0.0.1", &["127.0.0.1, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["127.0.0.1", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["nonsense, 203.0.113.9"], "203.0.113.9"),
            // Nothing to go by.
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, "], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, _hidden, 10.2.2.2"], "10.0.0.1"),
            ("10.0.0.1", &["10.2.2.2, 10.3.3.3"], "10.0.0.1"),
        ] {
            assert_eq!(client(peer, forwarded), expected, "{peer} {forwarded:?}");
        }
    }
}
