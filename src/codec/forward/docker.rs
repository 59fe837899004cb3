//! The shape of Docker's fluentd driver: of a record that has `container_id`, `container_name`, `source` and `log`, the first
//! three become the row's origin and stream, so that it is what the same line of a json-file is. Where the first step takes
//! `log` apart as JSON, a record without other fields is that object at once ([`Filler::take_apart`]).
//!
//! Limits: [`CONTAINERS_MAX`] containers remembered by a connection; [`CONTAINER_ID_MAX`] and [`CONTAINER_NAME_MAX`] bytes.

use std::sync::Arc;

use crate::batch::{Batch, RowHead, own_flag_of};
use crate::codec::json;
use crate::record::{Container, Field, Form, Origin, Span, Stream};

use super::entry::Filler;

/// Containers remembered by one connection; Docker itself uses one connection for each.
const CONTAINERS_MAX: usize = 64;
/// Bytes of a container's id (64 hex digits) and name; a record that says more is no record of Docker's.
const CONTAINER_ID_MAX: usize = 128;
const CONTAINER_NAME_MAX: usize = 1024;

/// A container that the connection has sent records of.
#[derive(Debug)]
struct Known {
    id: Vec<u8>,
    name: Vec<u8>,
    /// Shared by all its records, of whatever batch.
    origin: Arc<Origin>,
}

/// The fields of Docker's driver among those of a record, as indices.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DockerFields {
    id: Option<u32>,
    name: Option<u32>,
    source: Option<u32>,
    log: Option<u32>,
}

/// The containers of one connection.
#[derive(Debug, Default)]
pub(super) struct Containers {
    known: Vec<Known>,
    /// The one that was replaced last.
    next: usize,
}

impl Containers {
    /// The origin of a container's records, which is `connection` otherwise. `None` if it is none that Docker would name.
    fn origin(&mut self, id: &[u8], name: &[u8], connection: &Origin) -> Option<&Arc<Origin>> {
        let at = match self.known.iter().position(|known| known.id == id && known.name == name) {
            Some(at) => at,
            None => {
                if id.is_empty() || id.len() > CONTAINER_ID_MAX || name.len() > CONTAINER_NAME_MAX {
                    return None;
                }
                let text = |bytes| std::str::from_utf8(bytes).ok().map(str::to_owned);
                let bare = text(name.strip_prefix(b"/").unwrap_or(name))?;
                let container = Container { id: text(id)?, name: bare, ..Container::default() };
                let origin = Origin { container: Some(container), ..connection.clone() };
                let known = Known { id: id.to_vec(), name: name.to_vec(), origin: Arc::new(origin) };
                if self.known.len() < CONTAINERS_MAX {
                    self.known.push(known);
                    self.known.len() - 1
                } else {
                    self.next = (self.next + 1) % CONTAINERS_MAX;
                    self.known[self.next] = known;
                    self.next
                }
            }
        };
        Some(&self.known[at].origin)
    }
}

impl Filler {
    /// Closes a record whose fields are those after `mark`, in the shape of a json-file line if it is one of Docker's.
    /// `own` is what [`Batch::own_flags`] says of them.
    pub(super) fn push_row(
        &mut self,
        mark: usize,
        docker: DockerFields,
        own: u16,
        mut head: RowHead,
        batch: &mut Batch,
    ) {
        if let (Some(id), Some(name), Some(source), Some(_)) = (docker.id, docker.name, docker.source, docker.log) {
            let (stream, place) = self.dockerise(mark, [id, name, source].map(|at| at as usize), batch);
            head.stream = stream;
            // The fields that it took away stand in nobody's way.
            batch.push_flagged_row(mark, own, head);
            if place > 0 {
                batch.row_mut(batch.len() - 1).set_place(place);
            }
            return;
        }
        batch.push_flagged_row(mark, own, head);
    }

    /// Makes a row of a record that is nothing but the driver's four fields, if `log` is a JSON object and the first step would
    /// replace it by its members: only the object goes to the arena, and a sink copies its members in one piece
    /// (message-file: 6,270 -> 5,060 instructions a record). The fields after `mark` are the record's, whose spans count on
    /// `record` being put at the arena's end. `false` for any other record, which is as it was then.
    pub(super) fn take_apart(
        &mut self,
        record: &[u8],
        mark: usize,
        docker: DockerFields,
        mut head: RowHead,
        batch: &mut Batch,
    ) -> bool {
        let DockerFields { id: Some(id), name: Some(name), source: Some(source), log: Some(log) } = docker else {
            return false;
        };
        let Ok(fields) = <[Field; 4]>::try_from(batch.fields_after(mark)) else { return false };
        if fields.iter().any(|field| field.form != Form::Text) {
            return false;
        }
        let base = batch.arena().len();
        let [id, name, source, log] = [id, name, source, log].map(|index| {
            let Span { at, len } = fields[index as usize].value;
            &record[at as usize - base..][..len as usize]
        });
        head.stream = Stream::from_name(source);
        if !log.starts_with(b"{") || head.stream == Stream::None {
            return false;
        }
        let origin = self.containers.origin(id, name, &batch.origin);
        let Some(place) = origin.and_then(|origin| batch.place_of(origin)) else { return false };
        batch.rewind_fields(mark);
        let object = batch.push_bytes(log);
        let Some(own) = push_object(batch, object) else {
            batch.rewind_bytes(object);
            fields.iter().for_each(|field| batch.push_field(*field));
            return false;
        };
        batch.push_row_taken_apart(mark, own, head);
        if place > 0 {
            batch.row_mut(batch.len() - 1).set_place(place);
        }
        true
    }

    /// Gives the open fields after `mark` the shape of a json-file line. Leaves them alone if they are not what
    /// Docker writes (a label of the same name may have replaced a value).
    fn dockerise(&mut self, mark: usize, at: [usize; 3], batch: &mut Batch) -> (Stream, u8) {
        let [id, name, source] = at.map(|at| batch.open_fields(mark)[at]);
        if [id, name, source].iter().any(|field| field.form != Form::Text) {
            return (Stream::None, 0);
        }
        let stream = Stream::from_name(batch.bytes(source.value));
        if stream == Stream::None {
            return (stream, 0);
        }
        let (id, name) = (batch.bytes(id.value), batch.bytes(name.value));
        let origin = self.containers.origin(id, name, &batch.origin);
        let Some(place) = origin.and_then(|origin| batch.place_of(origin)) else { return (Stream::None, 0) };
        let fields = batch.open_fields(mark);
        let mut kept = 0;
        for index in 0..fields.len() {
            if !at.contains(&index) {
                fields[kept] = fields[index];
                kept += 1;
            }
        }
        batch.rewind_fields(mark + kept);
        (stream, place)
    }
}

impl DockerFields {
    /// The fields but `log` of a record that has all of them.
    pub(super) fn names(&self) -> impl Iterator<Item = usize> + use<> {
        let all = [self.id, self.name, self.source, self.log];
        let all = if all.contains(&None) { [None; 4] } else { all };
        all.into_iter().take(3).flatten().map(|at| at as usize)
    }

    pub(super) fn note(&mut self, key: &[u8], index: u32) {
        match key {
            b"log" => self.log = Some(index),
            b"source" => self.source = Some(index),
            b"container_id" => self.id = Some(index),
            b"container_name" => self.name = Some(index),
            _ => (),
        }
    }
}

/// Pushes the members of the object at `log`; which added values they stand in the way of. `None`, and none is pushed, for what
/// the step has to judge: what is no object or an empty one, and members that a step would take for the record's own, `log`
/// and that of a piece of a line.
fn push_object(batch: &mut Batch, log: Span) -> Option<u16> {
    let mark = batch.fields_mark();
    let (mut own, mut is_judged) = (0, false);
    json::push_members_seen(batch, log, json::index::DEPTH_MAX, |key| {
        own |= own_flag_of(key);
        is_judged |= matches!(key, b"log" | b"partial_id");
    })
    .ok()?;
    if is_judged || batch.fields_mark() == mark {
        batch.rewind_fields(mark);
        return None;
    }
    Some(own)
}
