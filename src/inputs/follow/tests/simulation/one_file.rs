//! The layout of one file and its generations.

use std::path::{Path, PathBuf};

use super::*;

pub(super) struct OneFile {
    pub(super) folder: PathBuf,
    /// It is a container's.
    pub(super) docker: bool,
    /// Nothing is stored of it yet: else that tells where to go on.
    pub(super) is_new: bool,
}

impl OneFile {
    fn family(&self) -> Family {
        Family { folder: self.folder.clone(), base: BASE.to_owned(), dated: !self.docker }
    }
}

impl Layout for OneFile {
    fn folders(&mut self) -> Folders {
        Folders { all: vec![self.folder.clone()], unread: Vec::new() }
    }

    fn families(&mut self, _: &Path) -> std::io::Result<Vec<Family>> {
        Ok(vec![self.family()])
    }

    fn has_folders(&self, _: &Path) -> bool {
        false
    }

    fn meaning(&mut self, _: &Path, name: &str, _: bool) -> Meaning {
        let family = self.family();
        if family.owns(name) { Meaning::Member(family) } else { Meaning::Nothing }
    }

    fn about(&mut self, _: &Family) -> Known {
        Known::Sure(About { origin: Arc::default(), tag: Tag::from("t") })
    }

    fn key(&self, _: &Family) -> String {
        "c".to_owned()
    }

    fn first(&self, _: &Family) -> First {
        if self.is_new { First::Oldest } else { First::Tail }
    }

    fn denied_hint(&self) -> &'static str {
        ""
    }

    fn ends_with_folder(&self) -> bool {
        self.docker
    }
}
