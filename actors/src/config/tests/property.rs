//! Whatever stands in the file or the environment, reading it ends in a configuration or in faults that can be shown.

use super::*;
use proptest::prelude::*;

fn never_panics(sources: &Sources) {
    if let Err(faults) = load(sources, &no_files) {
        assert!(!faults.faults().is_empty(), "a refusal without a reason");
        assert!(!faults.to_string().is_empty());
    }
}

/// Lines that look like configuration more often than random text does.
fn line() -> impl Strategy<Value = String> {
    let header = "\\[{1,2}(server|local|cloud|cloud.models|router.rules.trivial|router.aliases|local.defaults)\\]{1,2}";
    let key = "(listen|gpu|name|model|models|prefer|parallel|base_url|input_usd_per_mtok|api_keys_env|top_p|x|local)";
    let value = "(0|-1|1\\.5|1e400|99999999999999999999|inf|true|''|'é…'|'local'|\\[\\]|\\['x'\\]|\\{\\}|2026-01-01|\"\\\\u0000\")";
    let regex = |pattern: &str| prop::string::string_regex(pattern).unwrap();
    prop_oneof![regex(header), regex(&format!("{key} = {value}")), regex("\\PC{0,20}")]
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "[\\PC\\n\\r\\t\\u{0}]{0,300}") {
        never_panics(&sources(&text));
    }

    #[test]
    fn lines_like_configuration_never_panic(lines in prop::collection::vec(line(), 0..12)) {
        never_panics(&sources(&lines.join("\n")));
    }

    #[test]
    fn the_default_file_with_one_stretch_replaced_never_panics(
        start in 0..BUILT_IN.len(), length in 0usize..40, text in "\\PC{0,20}"
    ) {
        let end = (start + length).min(BUILT_IN.len());
        if BUILT_IN.is_char_boundary(start) && BUILT_IN.is_char_boundary(end) {
            never_panics(&sources(&format!("{}{text}{}", &BUILT_IN[..start], &BUILT_IN[end..])));
        }
    }

    #[test]
    fn arbitrary_variables_never_panic(
        path in "(LOCAL|CLOUD|SERVER|ROUTER|X)(__(0|1|GPU|NAME|MODELS|LISTEN|RULES|é)){0,4}_{0,3}", value in "\\PC{0,30}"
    ) {
        never_panics(&with_env("", &format!("SPILLWAY__{path}"), &value));
    }
}
