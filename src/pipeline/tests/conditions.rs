//! What conditions say of records, as JSON and as MessagePack.

use super::*;

const RECORD: &str = r#"{"level":"error","status":503,"big":9007199254740993,"neg":-5,"ratio":0.5,"ok":true,"no":false,
"nothing":null,"user":{"name":"b\"ob","id":7,"deep":{"x":[1,2]}},"a.b":"dotted","msg":"caf\u00e9 latte",
"ts":"2026-01-01T00:00:00.5Z","and":"word"}"#;

#[test]
fn conditions_say_what_they_mean_of_json_and_messagepack_alike() {
    let cases = [
        // Equality and order, by type.
        (r#"level == "error""#, true),
        (r#"level == 'error' and status == 503"#, true),
        (r#"level != "error""#, false),
        (r#"status >= 500 and status < 600"#, true),
        (r#"status == "503""#, false),
        (r#"status != "503""#, true),
        (r#"level > 5"#, false),
        (r#"big == 9007199254740993"#, true),
        (r#"big == 9007199254740992"#, false),
        (r#"big > 9007199254740992"#, true),
        (r#"neg < 0 and neg >= -5"#, true),
        (r#"ratio < 1 and ratio == 0.5 and status > 502.5"#, true),
        (r#"level < "f""#, true),
        (r#"ok == true and no == false and nothing == null"#, true),
        (r#"missing == null"#, false),
        (r#"missing != null"#, true),
        (r#"503 == status"#, true),
        (r#"status == status"#, true),
        // Booleans alone, and logic.
        ("ok", true),
        ("no or not ok", false),
        ("not no", true),
        ("level", false),
        (r#"no and no or ok"#, true),
        (r#"no and (no or ok)"#, false),
        ("not not ok", true),
        // exists, in, matches.
        ("exists level and exists user.deep.x and not exists user.zip", true),
        ("exists(user)", true),
        (r#"level in ["debug", "error", 5]"#, true),
        (r#"status in [500, 503,]"#, true),
        (r#"status not in ["503"]"#, true),
        (r#"level in []"#, false),
        (r#"msg matches "^caf. l""#, true),
        (r#"msg matches 'é\slatte$'"#, true),
        (r#"msg matches "\bl\w+e\b""#, true),
        (r#"status matches "^5\d\d$""#, true),
        (r#"user matches "bob""#, false),
        // Paths.
        (r#"user.name == "b\"ob" and user.id == 7"#, true),
        (r#"user.name.x == 1"#, false),
        (r#"a.b == "dotted""#, true),
        (r#"."a.b" == "dotted""#, true),
        (r#".and == "word""#, true),
        (r#"tag == "t" and stream == "stdout" and file matches "log""#, true),
        (r#"container.name == "web" and container.image matches "^nginx:""#, true),
        (r#"container.labels."com.example.tier" == "front""#, true),
        (r#"container.labels.com.example.tier == "front""#, true),
        (r#"exists container and not exists container.zip"#, true),
        // Times.
        (r#"ts > "2026-01-01T00:00:00Z" and ts < "2026-01-01T02:00:00+01:00""#, true),
        (r#"time == "1970-01-01T00:00:00Z" and time < "2026-01-01T00:00:00Z""#, true),
        (r#"level == "${ENVIRONMENT}""#, false),
        (r#""prod" == "${ENVIRONMENT}""#, true),
    ];
    for (condition, expected) in cases {
        let steps = format!("{{ keep = '''{condition}''' }}");
        let (json, msgpack) = run_both(&steps, RECORD);
        assert_eq!(json.len() == 1, expected, "{condition} of JSON");
        assert_eq!(msgpack.len() == 1, expected, "{condition} of MessagePack");
        assert_eq!((dropped(&json), json.tally.received), (u32::from(!expected), 1), "{condition}");
        let (json, _) = run_both(&steps.replace("keep", "drop"), RECORD);
        assert_eq!(json.len() == 1, !expected, "{condition} dropped");
    }
}

#[test]
fn a_mistake_in_a_condition_is_reported_at_its_place() {
    // The place is marked by what stands there.
    let cases = [
        (r#"level = "x""#, "= \"x\"", "`=` is written `==` here"),
        (r#"a == 1 && b == 2"#, "&&", "`&&` is written `and` here"),
        (r#"!a"#, "!a", "`!` is written `not` here"),
        (r#"a == "#, "", "expected a value or a path, got the end"),
        (r#"a == "x"#, "\"x", "this text has no end; close it with \""),
        (r#"(a == 1"#, "", "expected `)`"),
        (r#"a == 1)"#, ")", "`)` without `(`"),
        (r#"a == 1 b"#, "b", "expected `and`, `or` or the end"),
        (r#"a mathces "x""#, "mathces", "did you mean `matches`?"),
        (r#"a contains "x""#, "contains", "use `matches`"),
        (r#"a matches "(x""#, "\"(x\"", "this is no regular expression: unclosed group"),
        (r#"a matches "(a{999}){999}""#, "\"(a{999}){999}\"", "needs more than 1 MiB"),
        (r#"a matches b"#, "b", "expected a regular expression in quotes"),
        (r#"a in "x""#, "\"x\"", "expected a list after `in`"),
        (r#"a in [b]"#, "b]", "a list holds values only; write \"b\""),
        (r#"a in ["x" "y"]"#, "\"y\"", "expected `]`"),
        (r#"a < true"#, "true", "have no order"),
        (r#"a == 12x"#, "12x", "`12x` is no number"),
        (r#""x""#, "\"x\"", "a value alone is no condition"),
        (r#"a..b == 1"#, ".b", "a name is missing"),
        (r#"in == 1"#, "in ", "a field of that name is written .in"),
        (r#"a == ${X}"#, "${", "a variable stands within quotes"),
        (r#"exists 5"#, "5", "expected a path after `exists`"),
        (r#"a == §"#, "§", "`§` has no meaning here"),
    ];
    for (condition, at, message) in cases {
        let (_, found) = read(&format!("{{ drop = '{condition}' }}"));
        assert_eq!(found.len(), 1, "{condition}: {found:?}");
        assert!(found[0].contains(message), "{condition}: {found:?}");
        let place = if at.is_empty() { condition.len() } else { condition.rfind(at).expect("marked") };
        let column = "steps = [{ drop = '".len() + condition[..place].chars().count() + 1;
        assert!(found[0].starts_with(&format!("c.toml:1:{column}: ")), "{condition}: {column}: {found:?}");
    }
}

#[test]
fn the_place_is_right_behind_escapes_too() {
    let (_, found) = read(r#"{ drop = "\u00e9 == \"x\" && y" }"#);
    let column = r#"steps = [{ drop = "\u00e9 == \"x\" "#.len() + 1;
    assert!(found[0].starts_with(&format!("c.toml:1:{column}: ")), "{found:?}");
    let (_, found) = read("{ drop = '''\na == 1 &&''' }");
    assert!(found[0].starts_with("c.toml:2:8: "), "{found:?}");
}

#[test]
fn depth_length_and_lists_of_a_condition_are_limited() {
    let deep = format!("{}a{}", "(".repeat(63), ")".repeat(63));
    assert!(read(&format!("{{ drop = '{deep}' }}")).1.is_empty());
    for bad in [
        format!("{}a{}", "(".repeat(7_000), ")".repeat(7_000)),
        "(".repeat(500),
        format!("{} a", "not ".repeat(500)),
        format!("a in [{}]", "1,".repeat(2000)),
        "a or ".repeat(10_000),
    ] {
        assert_eq!(read(&format!("{{ drop = '{bad}' }}")).1.len(), 1, "{}", &bad[..40]);
    }
}
