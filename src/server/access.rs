//! Pure. Who may do what: operators' tokens with their roles and host limits, and how a request presents a token.
//! Does not read files or requests' bodies.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub use super::fleet::settings::{OperatorToken, Role};
use crate::id::HostName;
use crate::wildcard::matches;

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// The operator behind a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    pub name: String,
    pub role: Role,
    /// Of the token: whether it still counts is looked up by it.
    sha256: [u8; 32],
    /// Patterns; empty: all hosts.
    hosts: Vec<String>,
}

impl Operator {
    /// Whether the token's host limit lets it see this host.
    pub fn may_see(&self, host: &HostName) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|pattern| matches(pattern, host.as_str()))
    }

    /// Whether it is limited to some hosts, and so may not see what is the fleet's. `*` is no limit.
    pub fn is_limited(&self) -> bool {
        !self.hosts.is_empty() && !self.hosts.iter().any(|pattern| pattern == "*")
    }
}

/// The operator whose token this is. Takes the same time whichever token it is, or none.
pub fn operator_of(tokens: &[OperatorToken], presented: &str) -> Option<Operator> {
    let hash = sha256(presented.as_bytes());
    let mut found = None;
    for token in tokens {
        if bool::from(token.sha256.ct_eq(&hash)) {
            found = Some(token);
        }
    }
    found.map(|t| Operator { name: t.name.clone(), role: t.role, sha256: t.sha256, hosts: t.hosts.clone() })
}

/// Whether the operator's token is still configured as it was: a request that waits must not outlive it.
pub fn still_counts(tokens: &[OperatorToken], operator: &Operator) -> bool {
    let is_same =
        |t: &&OperatorToken| t.sha256 == operator.sha256 && t.role == operator.role && t.hosts == operator.hosts;
    tokens.iter().any(|token| is_same(&token))
}

/// A token's or body's SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The same in lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(&sha256(bytes))
}

/// Compares two hex hashes without telling where they differ.
pub fn same_hash(one: &str, two: &str) -> bool {
    bool::from(one.as_bytes().ct_eq(two.as_bytes()))
}

/// The token in `Authorization` (Bearer, or Basic with the token as password, so that a browser works) or in
/// `X-Restic-Manager-Token`, for reverse proxies that own `Authorization`.
pub fn presented_token(authorization: Option<&str>, own_header: Option<&str>) -> Option<String> {
    if let Some(token) = own_header {
        return Some(token.trim().to_owned());
    }
    let (scheme, value) = authorization?.trim().split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let text = String::from_utf8(BASE64.decode(value.trim().as_bytes()).ok()?).ok()?;
        return text.split_once(':').map(|(_, password)| password.to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_in_each_place_where_it_may_be() {
        assert_eq!(presented_token(Some("Bearer abc"), None).as_deref(), Some("abc"));
        assert_eq!(presented_token(Some("bearer  abc "), None).as_deref(), Some("abc"));
        assert_eq!(presented_token(Some("Basic b3BzOmFiYw=="), None).as_deref(), Some("abc"));
        assert_eq!(presented_token(Some("Basic proxy-user"), Some("abc")).as_deref(), Some("abc"));
        for nothing in ["", "Bearer", "Digest x", "Basic ???"] {
            assert_eq!(presented_token(Some(nothing), None), None, "{nothing}");
        }
    }

    #[test]
    fn a_token_finds_its_operator_and_no_other() {
        let token = |name: &str, role| OperatorToken {
            name: name.to_owned(),
            role,
            hosts: vec!["web-*".to_owned()],
            sha256: sha256(name.as_bytes()),
        };
        let tokens = [token("ops", Role::Operator), token("boss", Role::Admin)];
        let operator = operator_of(&tokens, "boss").expect("known");
        assert_eq!((operator.role, operator.is_limited()), (Role::Admin, true));
        assert!(operator.may_see(&"web-1".parse().expect("a name")));
        assert!(!operator.may_see(&"db-1".parse().expect("a name")));
        assert_eq!(operator_of(&tokens, "Boss"), None);
        let everywhere = Operator { hosts: vec!["*".to_owned()], ..operator };
        assert!(!everywhere.is_limited());
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }
}
