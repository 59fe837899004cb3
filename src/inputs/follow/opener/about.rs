//! Names, images and labels that come late or change, and what is left out for them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Opener, name_of};
use crate::inputs::follow::layout::Known;
use crate::inputs::follow::reader::News;

impl Opener {
    /// Asks again what is known of all families.
    pub(super) fn all_about(&mut self) {
        let folders: Vec<PathBuf> = self.folders.keys().cloned().collect();
        for folder in folders {
            self.about_of(&folder);
        }
    }

    /// Asks again what is known of a folder's families.
    pub(super) fn about_of(&mut self, path: &Path) {
        let Some(folder) = self.folders.get_mut(path) else { return };
        let mut news = Vec::new();
        let mut back = Vec::new();
        for kin in folder.families.values_mut() {
            match (self.layout.about(&kin.family), kin.chain) {
                (Known::Leave, Some(chain)) if !kin.left => {
                    kin.left = true;
                    // Should it be followed again, all that is there by then is to be looked at.
                    (kin.chain, kin.standing, kin.newest) = (None, None, None);
                    kin.published.clear();
                    self.owners.remove(&chain);
                    news.push((chain, News::Leave { chain }));
                }
                (Known::Sure(about), Some(chain)) => {
                    kin.named = true;
                    let same = kin.about.as_ref().is_some_and(|known| {
                        known.tag == about.tag
                            && (Arc::ptr_eq(&known.origin, &about.origin) || known.origin == about.origin)
                    });
                    if !same {
                        if let Some(standing) = &kin.standing {
                            standing.describe(&name_of(&about), self.layout.space(&kin.family));
                        }
                        kin.about = Some(about.clone());
                        news.push((chain, News::About { chain, about }));
                    }
                }
                // What excluded it is gone: it goes on where it was left.
                (Known::Sure(_), None) if kin.left => {
                    kin.left = false;
                    back.push(kin.family.clone());
                }
                _ => {}
            }
        }
        for (chain, news) in news {
            self.send(chain, news);
        }
        for family in back {
            self.look(family);
        }
        for (path, error) in self.layout.trouble() {
            self.say(&path, &error);
        }
    }
}
