//! Pure. An address or a network, as people write it: trusted proxies of a server, and what an agent reaches without a proxy.
//! Does not resolve names.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::toml_reader::shown;

/// An address or a network: "10.0.0.1", "10.0.0.0/8", "fd00::/8".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpRange {
    address: IpAddr,
    /// Bits that must agree, 0 to 32 or 128.
    prefix: u8,
}

impl IpRange {
    pub fn contains(&self, other: IpAddr) -> bool {
        let agree = |a: u128, b: u128, bits: u32| bits == 0 || (a ^ b) >> (128 - bits) == 0;
        match (self.address, other.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                agree(u128::from(a.to_bits()) << 96, u128::from(b.to_bits()) << 96, u32::from(self.prefix))
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => agree(a.to_bits(), b.to_bits(), u32::from(self.prefix)),
            _ => false,
        }
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = if self.address.is_ipv4() { 32 } else { 128 };
        self.address.fmt(f)?;
        if self.prefix < longest { write!(f, "/{}", self.prefix) } else { Ok(()) }
    }
}

impl FromStr for IpRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let invalid = || format!("{} is no address or network: write \"10.0.0.1\" or \"10.0.0.0/8\"", shown(text));
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), |prefix| prefix.parse().map_err(|_| invalid()))?;
        if prefix <= longest { Ok(Self { address, prefix }) } else { Err(invalid()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_other() {
        let rows = [
            ("10.0.0.0/8", "10.9.8.7", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe00::1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
        ];
        for (range, address, expected) in rows {
            let written = range;
            let range: IpRange = range.parse().expect(range);
            assert_eq!(range.to_string(), written);
            assert_eq!(range.contains(address.parse().expect(address)), expected, "{range:?} {address}");
        }
        for bad in ["", "10.0.0.0/33", "host", "10.0.0.0/", "::/129"] {
            assert!(bad.parse::<IpRange>().is_err(), "{bad}");
        }
    }
}
