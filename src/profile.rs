//! The two profiles that longshore runs in (docs/production.md), for errors of missing permissions: who reads one wants to
//! know which user it was, and which user it should have been.

use std::io;

/// The users of the profiles.
pub const USERS: &str = "the receiver profile is 65532, the tailer profile is 0";

/// Which user it is, and which ones it should be.
pub fn user() -> String {
    format!("longshore runs as uid {} ({USERS})", rustix::process::geteuid().as_raw())
}

/// The text of an error; of a missing permission, with the user that longshore runs as and those of the profiles.
pub fn named(error: &io::Error) -> String {
    let text = error.to_string();
    if error.kind() != io::ErrorKind::PermissionDenied || text.contains(USERS) {
        return text;
    }
    format!("{text}; {}", user())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_permissions_name_the_profiles_and_once() {
        let denied = |text: &str| named(&io::Error::new(io::ErrorKind::PermissionDenied, text));
        let text = denied("/x: Permission denied");
        assert!(text.starts_with("/x: Permission denied; longshore runs as uid "), "{text}");
        assert_eq!(denied(&text), text);
        assert_eq!(named(&io::Error::other("x")), "x");
    }
}
