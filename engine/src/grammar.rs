//! Answers that follow a grammar: which tokens may come next.
//!
//! Tokens that the grammar forbids get the logit `-inf` before the draw. End tokens are allowed exactly where the grammar
//! may end, and nothing else is once it cannot go on: so every complete answer ends with an end token. The masks come from
//! the `llguidance` crate; they depend on the request, the tokenizer and the tokens so far, so a reference pass computes
//! the same ones.

use std::fmt;

use common::generation::{Format, Generation, Tool, Tools};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, SimpleVob, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Number, Value, json};
use tokenizers::Tokenizer;
use toktrie_hf_tokenizers::{ByteTokenizer, ByteTokenizerEnv};

use crate::api::EngineError;

/// The most calls of one answer.
pub(crate) const MOST_CALLS: usize = 8;

/// Compiles the grammars of one model.
pub(crate) struct Grammars(ParserFactory);

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammars")
    }
}

impl Grammars {
    /// For a model with so many logits that ends its answers with these tokens.
    ///
    /// # Errors
    /// Why the tokenizer is of no use for this: it must work on bytes.
    pub(crate) fn new(
        tokenizer: &Tokenizer,
        vocabulary: u32,
        ends: &[u32],
    ) -> Result<Self, String> {
        let problem = |error: anyhow::Error| error.to_string();
        let added = tokenizer.get_added_tokens_decoder();
        // By its JSON: that crate has another version of `tokenizers` than this one.
        let json = tokenizer.to_string(false).map_err(|error| error.to_string())?;
        let bytes = ByteTokenizer::from_json_bytes(json.as_bytes()).map_err(problem)?;
        let (mut info, mut words) = (bytes.tokrx_info(), bytes.token_bytes());
        let special = |name: &str| {
            let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
            word.extend_from_slice(name.as_bytes());
            word
        };
        // Those in the basic vocabulary as well are not seen as special.
        for (id, token) in added.iter().filter(|(_, token)| token.special) {
            if let Some(word) = words.get_mut(*id as usize) {
                *word = special(&token.content);
            }
        }
        for id in words.len()..vocabulary as usize {
            words.push(special(&format!("<[{id}]>")));
        }
        info.vocab_size = u32::try_from(words.len()).map_err(|error| error.to_string())?;
        let ends: Vec<u32> = ends.iter().copied().filter(|id| *id < info.vocab_size).collect();
        info.tok_eos = *ends.first().ok_or("it has no end token")?;
        let tok_trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
        let env = ByteTokenizerEnv { tokenizer: bytes, tok_trie }.to_env();
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&env, InferenceCapabilities::default(), &slices).map_err(problem)?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(Self(factory))
    }

    /// The grammar of an answer; `None` if it may be any text.
    ///
    /// # Errors
    /// [`EngineError::BadParameter`] if the grammar cannot be compiled.
    pub(crate) fn compile(&self, generation: &Generation) -> Result<Option<Grammar>, EngineError> {
        let Some(grammar) = of(generation).map_err(|problem| refusal(generation, &problem))? else {
            return Ok(None);
        };
        let parser = self.0.create_parser(grammar);
        let mut matcher = Matcher::new(parser);
        // Compiling an unsatisfiable schema goes well, its first mask does not.
        match matcher.compute_mask() {
            Ok(_) => Ok(Some(Grammar(matcher))),
            Err(error) => Err(refusal(generation, &error.to_string())),
        }
    }
}

/// The refusal of a grammar, by the parameter that asks for it.
pub(crate) fn refusal(generation: &Generation, problem: &str) -> EngineError {
    let name = if generation.tools.is_some() { "tools" } else { "response_format" };
    let problem: String = problem.chars().filter(|c| !c.is_control()).take(300).collect();
    let problem = format!("`{name}` cannot be turned into a grammar for the answer: {problem}");
    EngineError::BadParameter { name, problem }
}

/// How far an answer has followed its grammar.
#[derive(Clone)]
pub(crate) struct Grammar(Matcher);

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammar")
    }
}

/// The tokens that may come next.
pub(crate) struct Mask(SimpleVob);

impl Mask {
    pub(crate) fn allows(&self, token: u32) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }

    /// Makes all others impossible.
    pub(crate) fn apply(&self, logits: &mut [f32]) {
        for (token, logit) in (0..).zip(logits) {
            if !self.allows(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

impl Grammar {
    /// What may come next.
    ///
    /// # Errors
    /// If that takes more work than is permitted, which no usual schema does.
    pub(crate) fn mask(&mut self) -> Result<Mask, String> {
        self.0.compute_mask_or_eos().map(Mask).map_err(|error| error.to_string())
    }

    /// The answer goes on with this token, which the mask allows and which does not end it.
    ///
    /// # Errors
    /// As [`Grammar::mask`].
    pub(crate) fn push(&mut self, token: u32) -> Result<(), String> {
        self.0.consume_token(token).map_err(|error| error.to_string())
    }
}

/// The grammar that a request asks for.
fn of(generation: &Generation) -> Result<Option<TopLevelGrammar>, String> {
    if let Some(tools) = generation.tools.as_ref().filter(|tools| tools.are_forced()) {
        return of_calls(tools).map(Some);
    }
    let schema = match &generation.format {
        Format::Text => return Ok(None),
        Format::JsonObject => json!({"type": "object"}),
        Format::JsonSchema(schema) => parse(schema.schema.get())?,
    };
    Ok(Some(TopLevelGrammar::from_grammar(of_json("answer", schema))))
}

/// `{"name": "f", "arguments": {…}}`, or a list of up to [`MOST_CALLS`] of these if there may be several. The arguments of
/// each function are a grammar of their own, so that references within its schema stay what they are.
fn of_calls(tools: &Tools) -> Result<TopLevelGrammar, String> {
    let (mut calls, mut rules, mut grammars) = (Vec::new(), String::new(), Vec::new());
    for (at, tool) in tools.callable().enumerate() {
        let head = Value::from(format!(r#"{{"name": "{}", "arguments": "#, tool.name));
        rules.push_str(&format!("call_{at}: {head} @arguments_{at} \"}}\"\n"));
        calls.push(format!("call_{at}"));
        grammars.push(of_json(&format!("arguments_{at}"), arguments_of(tool)?));
    }
    let start = if tools.parallel {
        format!("start: \"[\" call (\", \" call){{0,{}}} \"]\"", MOST_CALLS - 1)
    } else {
        "start: call".to_owned()
    };
    let lark = format!("{start}\ncall: {}\n{rules}", calls.join(" | "));
    grammars.insert(0, GrammarWithLexer::from_lark(lark));
    Ok(TopLevelGrammar { grammars, max_tokens: None })
}

/// The schema of a function's arguments, which are an object.
pub(crate) fn arguments_of(tool: &Tool) -> Result<Value, String> {
    let Some(parameters) = &tool.parameters else {
        return Ok(json!({"type": "object", "properties": {}, "additionalProperties": false}));
    };
    let mut schema = parse(parameters.get())?;
    if let Some(schema) = schema.as_object_mut() {
        let said = ["type", "$ref", "anyOf", "oneOf", "allOf", "const", "enum"];
        if !said.iter().any(|key| schema.contains_key(*key)) {
            schema.insert("type".to_owned(), "object".into());
        }
    }
    Ok(schema)
}

/// JSON on one line: at most one blank where white space may be, or a model could write blanks up to its limit.
fn of_json(name: &str, mut schema: Value) -> GrammarWithLexer {
    if let Some(schema) = schema.as_object_mut() {
        let options = json!({"whitespace_pattern": " "});
        schema.insert("x-guidance".to_owned(), options);
    }
    GrammarWithLexer { name: Some(name.to_owned()), json_schema: Some(schema), lark_grammar: None }
}

fn parse(schema: &str) -> Result<Value, String> {
    let mut schema = serde_json::from_str(schema).map_err(|error| error.to_string())?;
    normalise(&mut schema);
    Ok(schema)
}

/// Numbers in their usual spelling, whether or not this build of `serde_json` keeps the one that they came in: constants
/// are part of the grammar as they are written.
fn normalise(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(normalise),
        Value::Object(map) => map.values_mut().for_each(normalise),
        Value::Number(number) => {
            let whole = number.as_u64().map(Number::from).or(number.as_i64().map(Number::from));
            let usual = whole.or_else(|| number.as_f64().and_then(Number::from_f64));
            *number = usual.unwrap_or_else(|| number.clone());
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use common::generation::{JsonSchema, Prompt, Sampling, ToolChoice};
    use proptest::prelude::*;

    use super::*;
    use crate::folder::{self, ModelFolder};

    fn demo() -> ModelFolder {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo-model/touchstone-demo-4m");
        folder::inspect(&folder).unwrap()
    }

    fn grammars(folder: &ModelFolder) -> Grammars {
        Grammars::new(&folder.tokenizer, folder.vocabulary, &folder.ends.all).unwrap()
    }

    fn asked(schema: &str) -> Generation {
        let sampling = Sampling { seed: 1, temperature: 1.0, top_p: 1.0 };
        let plain = Generation::plain(Prompt::Text("x".to_owned()), sampling, 8);
        let schema =
            JsonSchema { name: "s".to_owned(), schema: serde_json::from_str(schema).unwrap() };
        Generation { format: Format::JsonSchema(schema), ..plain }
    }

    /// The position of the first forbidden token, or whether the answer may end.
    fn follow(grammar: &mut Grammar, folder: &ModelFolder, text: &str) -> Result<bool, usize> {
        let ids = folder.tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec();
        for (at, id) in ids.into_iter().enumerate() {
            if !grammar.mask().unwrap().allows(id) {
                return Err(at);
            }
            grammar.push(id).unwrap();
        }
        let mask = grammar.mask().unwrap();
        let ends: Vec<bool> = folder.ends.all.iter().map(|end| mask.allows(*end)).collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
        Ok(ends[0])
    }

    const SCHEMA: &str = r#"{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"], "additionalProperties": false}"#;

    #[test]
    fn the_end_token_is_allowed_exactly_where_the_grammar_ends() {
        let folder = demo();
        let grammars = grammars(&folder);
        let follow = |text: &str| {
            follow(&mut grammars.compile(&asked(SCHEMA)).unwrap().unwrap(), &folder, text)
        };
        let whole = r#"{"name": "Ann", "age": 7}"#;
        assert_eq!(follow(whole), Ok(true));
        for cut in 0..whole.len() {
            // A part may be spelt with other tokens than the whole is, which forced tokens do not permit.
            assert_ne!(follow(&whole[..cut]), Ok(true), "{cut}");
        }
        assert!(follow(r#"{"name": "Ann", "age": "old"}"#).is_err());
        assert!(follow("Once upon a time").is_err());
        assert!(follow(r#"{"name": "Ann", "age": 7} and"#).is_err());
    }

    #[test]
    fn nothing_but_an_end_token_follows_a_whole_answer() {
        let folder = demo();
        let mut grammar = grammars(&folder).compile(&asked(SCHEMA)).unwrap().unwrap();
        assert_eq!(follow(&mut grammar, &folder, r#"{"name": "", "age": 1}"#), Ok(true));
        let mut logits = vec![0.0; folder.vocabulary as usize + 3];
        grammar.mask().unwrap().apply(&mut logits);
        let allowed: Vec<u32> =
            (0..).zip(&logits).filter(|(_, logit)| logit.is_finite()).map(|(id, _)| id).collect();
        assert_eq!(allowed, folder.ends.all);
    }

    #[test]
    fn schemas_that_cannot_be_followed_are_refused_by_name() {
        let folder = demo();
        let grammars = grammars(&folder);
        for schema in [
            r#"{"type": "animal"}"#,
            r#"{"$ref": "https://example.com/schema"}"#,
            r##"{"$ref": "#/$defs/missing"}"##,
            r#"{"type": "object", "properties": 7}"#,
            r#"false"#,
            r#"{"allOf": [{"type": "string"}, {"type": "integer"}]}"#,
        ] {
            let error = grammars.compile(&asked(schema)).unwrap_err();
            assert!(
                matches!(error, EngineError::BadParameter { name: "response_format", .. }),
                "{schema}: {error}"
            );
        }
        assert!(grammars.compile(&asked("{}")).unwrap().is_some());
    }

    fn tool(name: &str, parameters: Option<&str>) -> Tool {
        let parameters = parameters.map(|text| serde_json::from_str(text).unwrap());
        Tool { name: name.to_owned(), description: None, parameters }
    }

    #[test]
    fn calls_that_are_certain_have_a_name_and_fitting_arguments() {
        let folder = demo();
        let grammars = grammars(&folder);
        let place = r##"{"type": "object", "properties": {"at": {"$ref": "#/$defs/place"}}, "required": ["at"],
            "$defs": {"place": {"enum": ["here", "there"]}}}"##;
        let list = vec![tool("look", Some(place)), tool("wait", None), tool("any", Some("{}"))];
        let follows = |choice: ToolChoice, parallel, text: &str| {
            let tools = Some(Tools { list: list.clone(), choice, parallel });
            let asked = Generation { tools, format: Format::Text, ..asked("{}") };
            let mut grammar = grammars.compile(&asked).unwrap().unwrap();
            follow(&mut grammar, &folder, text)
        };
        let look = r#"{"name": "look", "arguments": {"at": "here"}}"#;
        let wait = r#"{"name": "wait", "arguments": {}}"#;
        let several = format!("[{look}, {wait}]");
        let named = || ToolChoice::Named("wait".to_owned());
        assert_eq!(follows(ToolChoice::Required, false, look), Ok(true));
        assert_eq!(follows(ToolChoice::Required, false, wait), Ok(true));
        assert_eq!(follows(ToolChoice::Required, true, &several), Ok(true));
        assert_eq!(follows(named(), false, wait), Ok(true));
        for (choice, parallel, text) in [
            (ToolChoice::Required, false, r#"{"name": "look", "arguments": {"at": "nowhere"}}"#),
            (ToolChoice::Required, false, r#"{"name": "fly", "arguments": {}}"#),
            (ToolChoice::Required, false, r#"{"name": "any", "arguments": 7}"#),
            (ToolChoice::Required, false, several.as_str()),
            (ToolChoice::Required, true, look),
            (named(), false, look),
        ] {
            assert!(follows(choice, parallel, text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_spelt_as_usual() {
        let schema = parse(r#"{"enum": [1.50, 2, -3, 1e2, 18446744073709551615]}"#).unwrap();
        assert_eq!(schema.to_string(), r#"{"enum":[1.5,2,-3,100.0,18446744073709551615]}"#);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_schema_makes_the_compiler_panic(text in r#"\{"(type|enum|items|anyOf)": [\[\]{}"a-z0-9:, ]{0,24}\}"#) {
            thread_local!(static DEMO: (ModelFolder, Grammars) = {
                let folder = demo();
                let grammars = grammars(&folder);
                (folder, grammars)
            });
            if serde_json::from_str::<Value>(&text).is_ok() {
                DEMO.with(|(_, grammars)| drop(grammars.compile(&asked(&text))));
            }
        }
    }
}
