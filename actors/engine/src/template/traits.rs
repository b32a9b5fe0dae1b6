//! What a chat template can say, found out by trying: its words for tools, system and developer messages.
//!
//! A template is a program; whether it shows something is seen in what it writes, not in its source. Only the dialect of
//! its calls is read there, once it is known to show tools, calls and results.

use super::ChatTemplate;
use spillway_actors::tools::{ChatTraits, Dialect};

const SYSTEM: &str = r#"[{"role":"system","content":"probe-of-system"},{"role":"user","content":"probe-of-user"}]"#;
const DEVELOPER: &str =
    r#"[{"role":"developer","content":"probe-of-developer"},{"role":"user","content":"probe-of-user"}]"#;
const USER: &str = r#"[{"role":"user","content":"probe-of-user"}]"#;
const CALLED: &str = r#"[{"role":"user","content":"probe-of-user"},
    {"role":"assistant","content":"","tool_calls":[{"id":"probe0001","type":"function",
        "function":{"name":"probe_call","arguments":{"place":"probe-of-place"}}}]},
    {"role":"tool","name":"probe_call","tool_call_id":"probe0001","content":"probe-of-result"}]"#;
const TOOLS: &str = r#"[{"type":"function","function":{"name":"probe_tool","description":"Looks.",
    "parameters":{"type":"object","properties":{"place":{"type":"string","description":"Where."}},"required":["place"]}}}]"#;

/// The traits of a template.
pub fn of(template: &ChatTemplate) -> ChatTraits {
    let shows = |messages: &str, tools: Option<&str>, words: &[&str]| {
        template.render(messages, tools).is_ok_and(|text| words.iter().all(|word| text.contains(word)))
    };
    let shows_tools = shows(USER, Some(TOOLS), &["probe_tool", "probe-of-user"]);
    let shows_calls = shows(CALLED, Some(TOOLS), &["probe_call", "probe-of-place", "probe-of-result"]);
    let dialect = if shows_tools && shows_calls { Dialect::of_template(template.source()) } else { Dialect::Generic };
    ChatTraits {
        dialect,
        system: shows(SYSTEM, None, &["probe-of-system", "probe-of-user"]),
        // A template that writes any role writes this one, too, but its model has not heard of it.
        developer: template.source().contains("developer") && shows(DEVELOPER, None, &["probe-of-developer"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traits(source: Option<&str>) -> ChatTraits {
        of(&ChatTemplate::new(source, "<s>", "</s>").unwrap())
    }

    const HERMES: &str = "{%- if tools %}{{- '<|im_start|>system\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content + '\n' }}{%- endif %}\
{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{{- '<tool_call>{\"name\": <function-name>}</tool_call><|im_end|>\n' }}{%- endif %}\
{%- for message in messages %}{%- if message.role == 'assistant' and message.tool_calls %}{{- '<|im_start|>assistant' }}\
{%- for call in message.tool_calls %}{%- if call.function is defined %}{%- set call = call.function %}{%- endif %}\
{{- '\n<tool_call>\n{\"name\": \"' }}{{- call.name }}{{- '\", \"arguments\": ' }}{{- call.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}\
{%- elif message.role == 'tool' %}{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}\
{%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}";

    #[test]
    fn a_template_without_tools_speaks_our_own_format() {
        let traits = traits(None);
        assert_eq!((traits.dialect, traits.system, traits.developer), (Dialect::Generic, true, false));
    }

    #[test]
    fn a_template_with_tools_speaks_its_dialect() {
        let traits = traits(Some(HERMES));
        assert_eq!((traits.dialect, traits.system), (Dialect::Hermes, true));
    }

    #[test]
    fn a_template_that_mentions_tools_and_shows_no_calls_is_not_trusted_with_them() {
        let source = "{% if tools %}<tool_call>{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}";
        assert_eq!(traits(Some(source)).dialect, Dialect::Generic);
    }

    #[test]
    fn a_template_may_refuse_system_messages_or_know_developers() {
        let refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ messages[0].content }}";
        assert!(!traits(Some(refuses)).system);
        let knows = "{% for m in messages %}{% if m.role == 'developer' %}[dev]{% endif %}{{ m.content }}{% endfor %}";
        assert!(traits(Some(knows)).developer);
    }
}
