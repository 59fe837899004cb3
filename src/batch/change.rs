//! Steps give rows other fields: appended, put in the place of a text, removed.
//!
//! A row's fields are one run of the table. Bytes and fields that are not needed any more stay until the batch ends.

use super::tables::own_flag;
use super::{Batch, OWN_ALL, Tables};
use crate::record::Field;

impl Batch {
    /// Appends a field to row `at`.
    pub fn add_field(&mut self, at: usize, field: Field) {
        self.whole = false;
        let Tables { rows, fields, arena, .. } = &mut self.tables;
        let row = &mut rows[at];
        let (from, len) = (row.fields_at as usize, row.fields_len as usize);
        if from + len != fields.len() {
            // Its fields are not the table's last: move them there, so that they stay one run.
            row.fields_at = fields.len() as u32;
            fields.extend_from_within(from..from + len);
        }
        row.flags |= own_flag(arena, &field);
        row.fields_len += 1;
        fields.push(field);
    }

    /// Replaces field `index` of row `at` by the fields after `mark`, which must be the table's last: how `parse` puts
    /// the members of an object where the text was. Pass `None` to append them instead.
    pub fn splice_fields(&mut self, at: usize, index: Option<usize>, mark: usize) {
        self.whole = false;
        let Tables { rows, fields, arena, .. } = &mut self.tables;
        let row = &mut rows[at];
        let (from, len) = (row.fields_at as usize, row.fields_len as usize);
        let end = fields.len();
        match (index, len) {
            // The commonest case by far: the text was the only field.
            (Some(0), 1) => {
                row.fields_at = mark as u32;
                row.fields_len = (end - mark) as u32;
            }
            (index, _) => {
                let index = index.unwrap_or(len);
                fields.extend_from_within(from..from + index);
                fields.extend_from_within(mark..end);
                fields.extend_from_within((from + index + 1).min(from + len)..from + len);
                row.fields_at = end as u32;
                row.fields_len = (fields.len() - end) as u32;
            }
        }
        let (from, len) = (row.fields_at as usize, row.fields_len as usize);
        row.flags = fields[from..from + len].iter().fold(row.flags & !OWN_ALL, |f, field| f | own_flag(arena, field));
    }

    /// Removes field `index` of row `at`; the order of the others stays.
    pub fn remove_field(&mut self, at: usize, index: usize) {
        let fields = self.fields_mut(at);
        assert!(index < fields.len(), "field {index} of {}", fields.len());
        fields.copy_within(index + 1.., index);
        self.tables.rows[at].fields_len -= 1;
        self.reflag(at);
    }

    /// The same for several fields, by ascending index.
    pub fn remove_fields(&mut self, at: usize, doomed: &[usize]) {
        let fields = self.fields_mut(at);
        let (mut to, mut next) = (0, doomed.iter().peekable());
        for from in 0..fields.len() {
            if next.next_if_eq(&&from).is_none() {
                fields[to] = fields[from];
                to += 1;
            }
        }
        self.tables.rows[at].fields_len = to as u32;
        self.reflag(at);
    }

    /// Recomputes which added values the record has itself, after a key was changed in place.
    pub fn reflag(&mut self, at: usize) {
        let own = self.fields(at).iter().fold(0, |own, field| own | own_flag(&self.tables.arena, field));
        let row = &mut self.tables.rows[at];
        row.flags = row.flags & !OWN_ALL | own;
    }
}
