//! Where a connection is between two frames: for a decoder that is made when a sender speaks again after a silence.

use super::json::Json;
use super::{Decoder, Limits};

/// All that a decoder which goes on with a connection has to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// Bytes used since the start of the connection.
    offset: u64,
    is_json: bool,
}

impl Place {
    /// Bytes used since the start of the connection.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

impl Decoder {
    /// A decoder that goes on where another one was between two frames.
    pub fn resume(limits: Limits, docker: bool, place: Place) -> Decoder {
        let mut decoder = Decoder::new(limits, docker);
        (decoder.offset, decoder.frame_at) = (place.offset, place.offset);
        decoder.json = place.is_json.then(|| Box::new(Json::new(limits, docker, place.offset)));
        decoder
    }

    /// Where it is. It can be gone on with from between two frames only.
    pub fn place(&self) -> Place {
        match &self.json {
            Some(json) => Place { offset: json.offset(), is_json: true },
            None => Place { offset: self.offset, is_json: false },
        }
    }
}
