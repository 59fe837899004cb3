//! Which folders, files and containers an input is about: what its opener asks, and what docker and file answer.

use std::io;
use std::path::{Path, PathBuf};

use super::chain::{About, First};
use super::generations::Family;
use super::standing::Space;

/// What a name in a watched folder stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A folder to watch, or one less.
    Folder,
    /// A generation of this family.
    Member(Family),
    /// What is known about this folder's families has changed.
    About,
    /// Nothing of ours.
    Nothing,
}

/// What is known of a family.
#[derive(Clone, Debug)]
pub enum Known {
    /// All there is to know.
    Sure(About),
    /// More may come soon; until then this.
    Maybe(About),
    /// It is not to be followed.
    Leave,
}

/// The folders of an input.
#[derive(Debug, Default)]
pub struct Folders {
    /// Those that were found.
    pub all: Vec<PathBuf>,
    /// Those that could not be looked into: nothing is known of what is below them.
    pub unread: Vec<(PathBuf, io::Error)>,
}

/// Which folders and names an input is about. Called by the opener only.
pub trait Layout: Send {
    /// All folders to watch, as they are now.
    fn folders(&mut self) -> Folders;
    /// Whether none of them has come or gone since that was asked last, for sure.
    fn folders_stand(&self) -> bool {
        false
    }
    /// The families in one of them.
    ///
    /// # Errors
    /// The kernel's: then nobody knows.
    fn families(&mut self, folder: &Path) -> io::Result<Vec<Family>>;
    /// Whether further ones may come to be in one of them.
    fn has_folders(&self, folder: &Path) -> bool;
    /// Nothing is left of a family.
    fn forget(&mut self, _: &Family) {}
    /// What a name there stands for. If it is gone, its own look says nothing: `of_file` is whether a file was created there.
    fn meaning(&mut self, folder: &Path, name: &str, of_file: bool) -> Meaning;
    /// What is known of a family. Cheap when nothing has changed.
    fn about(&mut self, family: &Family) -> Known;
    /// What its writer's rotation leaves, if that is known. Cheap when nothing has changed.
    fn space(&mut self, _: &Family) -> Option<Space> {
        None
    }
    /// What stands in the way of knowing more, and stays, since this was asked last.
    fn trouble(&mut self) -> Vec<(PathBuf, io::Error)> {
        Vec::new()
    }
    /// Second half of its checkpoint's key.
    fn key(&self, family: &Family) -> String;
    /// Where it starts without a checkpoint, were it not for `start = "tail"`.
    fn first(&self, family: &Family) -> First;
    /// What to add to the message when something may not be read.
    fn denied_hint(&self) -> &'static str;
    /// Whether a family whose folder is gone is at its end (containers are removed whole).
    fn ends_with_folder(&self) -> bool;
}
