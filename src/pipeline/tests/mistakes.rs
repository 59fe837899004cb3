//! What is said of steps that are written wrongly.

use super::*;

#[test]
fn every_mistake_in_a_step_is_reported_with_a_way_out() {
    let cases = [
        (r#"{ prase = "json" }"#, "unknown step `prase`; did you mean `parse`?"),
        (r#"{ frobnicate = 1 }"#, "unknown step `frobnicate`: join, parse, time"),
        (r#"{ where = "a" }"#, "a step has a verb: join, parse"),
        (r#"{ parse = "json", drop = "a" }"#, "one step has one verb, this has `parse` and `drop`; write two steps"),
        (r#"{ parse = "json", form = "log" }"#, "unknown key `form` in [pipeline.steps[0]]; did you mean `from`?"),
        (r#"{ parse = "jsn" }"#, "\"jsn\" is not one of \"json\", \"logfmt\", \"regex\"; did you mean \"json\"?"),
        (r#"{ parse = "regex" }"#, "`pattern` is missing"),
        (r#"{ parse = "regex", pattern = "(" }"#, "steps[0].pattern: this is no regular expression"),
        (r#"{ parse = "regex", pattern = "a" }"#, "it has no named group"),
        (r#"{ parse = "json", pattern = "a" }"#, "only `parse = \"regex\"` has a pattern"),
        (r#"{ parse = "json", on_error = "dead" }"#, "is not one of \"keep\", \"drop\""),
        (r#"{ join = "docker" }"#, "is not one of \"docker_partial\""),
        (r#"{ drop = "a" }, { join = "docker_partial" }"#, "steps[1].join: `join` has to be the first step"),
        (r#"{ join = "docker_partial", where = "a" }"#, "`join` has no `where`"),
        (r#"{ join = "docker_partial", line_max = "1KiB" }"#, "\"1KiB\" is not within 16KiB to 16MiB"),
        (r#"{ join = "docker_partial", lines_max = 0 }"#, "0 is not within 1 to 4096"),
        (r#"{ join = "docker_partial", wait = "0s" }"#, "\"0s\" is not within 10ms to"),
        (r#"{ join = "docker_partial", acked_wait = 250 }"#, "250 has no unit; write \"250s\""),
        (r#"{ time = "ts", formats = ["rfc"] }"#, "\"rfc\" is not one of"),
        (r#"{ time = "ts", formats = [] }"#, "an empty list; leave it out"),
        (r#"{ time = "ts", formats = ["%d %!"] }"#, "is no pattern for times"),
        (r#"{ time = "ts", zone = "Mars/Base" }"#, "\"Mars/Base\" is no time zone"),
        (r#"{ time = 5 }"#, "expected a string such as \"ts\", got the number 5"),
        (r#"{ set = { a = "{b" } }"#, "steps[0].set.a: `{` without `}`"),
        (r#"{ set = { a = [1] } }"#, "expected a string, a number, true or false, got a list"),
        (r#"{ set = "a" }"#, "expected a table such as { env = \"dev\" }"),
        (r#"{ set = { a = "${NOPE}" } }"#, "the environment has no `NOPE`"),
        (r#"{ rename = { a = 1 } }"#, "steps[0].rename.a: expected a name"),
        (r#"{ remove = ["a..b"] }"#, "steps[0].remove: a name is missing"),
        (r#"{ mask = [] }"#, "nothing to hide"),
        (r#"{ mask = ["a"], patterns = ["x*"] }"#, "it matches the empty text"),
        (r#"{ sample = 10 }"#, "expected a string such as \"1/10\" or \"10%\", got the number 10"),
        (r#"{ sample = "3/2" }"#, "is no part of a whole"),
        (r#"{ sample = "ten" }"#, "is no rate"),
        (r#"{ tag = "" }"#, "an empty tag"),
        (r#"{ drop = "a", match = [] }"#, "an empty list matches no tag"),
        (r#"{ drop = "a", where = "b = 1" }"#, "steps[0].where: `=` is written `==` here"),
        (r#""json""#, "expected a step such as { parse = \"json\" }, got the string \"json\""),
    ];
    for (step, message) in cases {
        let found = read(step).1;
        assert_eq!(found.len(), 1, "{step}: {found:?}");
        assert!(found[0].contains(message), "{step}: {found:?}");
    }
    assert_eq!(read(r#"{ prase = "json" }, { drop = "a &&" }, { sample = "1" }"#).1.len(), 3, "all in one run");
}

#[test]
fn no_section_means_no_steps() {
    let pipeline = Pipeline::read(None);
    let mut batch = empty();
    push_json(&mut batch, "t", "{\"a\":1}");
    pipeline.apply(&mut pipeline.lane(JoinRule::DockerFile), &mut batch, NOW);
    assert_eq!((lines(&batch, NONE), batch.tally.received), (vec!["{\"a\":1}".to_owned()], 1));
}
