//! What can be counted: the label values of oddities, refusals and drops. A new row here is a new series; its line in
//! `docs/counters.md` is the only other thing to add.

/// Defines an enum whose rows are the label values of one series.
macro_rules! catalogue {
    ($(#[$doc:meta])* $name:ident { $($(#[$row_doc:meta])* $row:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum $name { $($(#[$row_doc])* $row,)* }

        impl $name {
            /// Label values, in the order of the rows.
            pub const NAMES: &'static [&'static str] = &[$($text),*];
            /// How many rows there are.
            pub const COUNT: usize = Self::NAMES.len();

            /// The label value.
            pub fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }
        }
    };
}

catalogue! {
    /// Something odd in the input that did not cost a record; the record went on as the documentation's table says.
    Oddity {
        /// A line longer than the limit was cut.
        LineCut = "line_cut",
        /// A json-file line that is no json-file record was kept as text.
        LineNotDocker = "line_not_docker",
        /// A line that is no CRI line was kept as text.
        LineNotCri = "line_not_cri",
        /// A line of a `json` input that is no JSON object was kept as text.
        LineNotJson = "line_not_json",
        /// A run of NUL bytes was skipped.
        NulRun = "nul_run",
        /// Half a record was glued to the next one; both were kept.
        TornLine = "torn_line",
        /// Bytes that are not UTF-8 (replaced where the output must be UTF-8).
        InvalidUtf8 = "invalid_utf8",
        /// Docker itself replaced a byte (`\ufffd` in the file).
        Utf8LostByDocker = "utf8_lost_by_docker",
        /// `parse` found no object and kept the text.
        NotParsed = "not_parsed",
        /// An inner field replaced an outer one of the same name.
        FieldReplaced = "field_replaced",
        /// A time was nil, zero or unreadable: the time of receipt was used.
        TimeFromReceipt = "time_from_receipt",
        /// A bare number was taken as milli-, micro- or nanoseconds by its size.
        TimeScaled = "time_scaled",
        /// A time outside 1677-2262 was clamped.
        TimeClamped = "time_clamped",
        /// A float that JSON can not write (NaN, infinities) became null.
        NotFinite = "not_finite",
        /// A JSON number that MessagePack can not hold (beyond 64 bits, beyond a float) was sent as text.
        NumberAsText = "number_as_text",
        /// A JSON number with more digits than a float 64 has was sent as the nearest float.
        NumberRounded = "number_rounded",
        /// A map key that is no text was written as text.
        KeyNotText = "key_not_text",
        /// A record has a key twice; both fields were kept.
        DuplicateKey = "duplicate_key",
        /// An ext type that means nothing here was written as its type and its bytes.
        ExtUnknown = "ext_unknown",
        /// Nanoseconds of an event's time from 1e9 up were carried over into its seconds.
        NanosecondsCarried = "nanoseconds_carried",
        /// A forward frame's tag is empty.
        TagEmpty = "tag_empty",
        /// A frame said one codec and held another.
        CodecSniffed = "codec_sniffed",
        /// Options that say "no logs" or name an unknown codec came after the frame's records had gone on.
        OptionsLate = "options_late",
        /// A chunk id that is no text was echoed as it was.
        ChunkNotText = "chunk_not_text",
        /// A batch inside an entry was unwrapped.
        NestedBatch = "nested_batch",
        /// Group markers of Fluent Bit were skipped.
        GroupMarker = "group_marker",
        /// Metadata of an event (Fluent Bit's `[[time, metadata], record]`) were not kept.
        MetadataDropped = "metadata_dropped",
        /// Zero bytes after the last entry were skipped.
        ZeroTail = "zero_tail",
        /// A connection was closed because its bytes could not be told apart.
        FramingLost = "framing_lost",
        /// A connection was closed because nothing more of a frame came.
        FrameStalled = "frame_stalled",
        /// A connection was closed because a limit (connections, memory) was reached.
        ConnectionRefused = "connection_refused",
        /// A connection was closed because its handshake (TLS or shared key) failed or did not end in time.
        HandshakeFailed = "handshake_failed",
        /// The task of a forward connection panicked; the connection is closed, and what it held is not acknowledged.
        ConnectionPanicked = "connection_panicked",
        /// A connection was closed because its address is in no network that is let in.
        NotAllowed = "not_allowed",
        /// A piece of a split line (pieces are not records).
        Piece = "piece",
        /// Pieces that never got their end went on as one record.
        PartialOrphan = "partial_orphan",
        /// Pieces went on unjoined because a limit was reached or the sender waited for its ack.
        PartialUnjoined = "partial_unjoined",
        /// A compressed file was damaged; its readable part went on.
        GzDamaged = "gz_damaged",
        /// A followed file was truncated or rewritten in place, and was read from its head.
        FileRewritten = "file_rewritten",
        /// The generation that was being read was gone after a restart.
        GenerationGone = "generation_gone",
        /// A record was cut because it holds more than the limit.
        RecordCut = "record_cut",
        /// A step could not be applied to a record, which went on without it.
        StepFailed = "step_failed",
    }
}

catalogue! {
    /// Why a record ended without being offered to a sink, or was given up by one.
    DropReason {
        /// A `drop`, `keep` or `sample` step, or `parse` with `on_error = "drop"`.
        Step = "step",
        /// No sink matches its tag.
        Unrouted = "unrouted",
        /// Not delivered when the time for shutting down was over, and the input can not give it again.
        Shutdown = "shutdown",
        /// The disk log was full, and the policy (`full`, or `required = false` of the sink) was to drop.
        BufferFull = "buffer_full",
        /// Bytes of the disk log were damaged or missing.
        BufferDamaged = "buffer_damaged",
    }
}

catalogue! {
    /// Why an input or sink refused a record for good.
    RejectReason {
        /// A record that is no map.
        NotAMap = "not_a_map",
        /// Nested deeper than the limit.
        TooDeep = "too_deep",
        /// Larger than the limit.
        TooLarge = "too_large",
        /// A tag that is no text, or longer than the limit.
        BadTag = "bad_tag",
        /// An entry that is not `[time, record]`.
        BadEntry = "bad_entry",
        /// A frame of a shape that the protocol does not have.
        BadFrame = "bad_frame",
        /// A codec that is not known.
        UnknownCodec = "unknown_codec",
        /// Damaged compression; what came before the damage was kept.
        BadCompression = "bad_compression",
        /// Decompressed size above the limits; what came before was kept.
        Bomb = "bomb",
        /// Metrics, traces and the like: not logs.
        NotLogs = "not_logs",
        /// The destination said that it will never take it.
        Refused = "refused",
        /// It can not be encoded or addressed (such as a path that can not be made).
        Unencodable = "unencodable",
    }
}

catalogue! {
    /// Why a dead letter is gone, or never came to be.
    LetterLoss {
        /// The log of dead letters was full: the oldest went.
        PushedOut = "pushed_out",
        /// The disk failed, was too slow, or the record is larger than a letter may be.
        Unwritten = "unwritten",
        /// Bytes on the disk were damaged or missing.
        LetterDamaged = "letter_damaged",
        /// An input refused more within an hour than its letters may take of the log.
        RateLimited = "rate_limited",
    }
}

catalogue! {
    /// What became of a request (SIGHUP) to read the configuration again.
    Reload {
        /// The new one is in force.
        Applied = "applied",
        /// It is the same: files were reopened.
        Unchanged = "unchanged",
        /// It has mistakes; the one before goes on.
        Refused = "refused",
        /// It could not be started; the one before was started again.
        Failed = "failed",
    }
}
