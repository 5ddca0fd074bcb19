//! A whole local subnet, as `localnet` starts it: who earns what, what users get, and what a restart keeps.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use ::chain::Chain;
use ::localnet::{Cheat, Localnet, MinerReport, Options, Report};
use common::{Hotkey, MechanismId};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::{Evidence, bounded, eventually, look_at_chain, start, until_status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_miners_earn_a_cheat_does_not_users_are_answered_and_a_restart_goes_on() {
    bounded(async {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            miners: 3,
            period: Duration::from_secs(6),
            cheat: Some(Cheat::Sibling),
            ..Options::in_folder(folder.path().join("subnet"))
        };
        let first = start(&options).await;
        let chain = look_at_chain(first.rpc).await;

        let (report, block) = everybody_honest_has_weight(&first, &chain).await;
        let (honest, cheats): (Vec<_>, Vec<_>) =
            report.miners.iter().partition(|miner| miner.honest);
        assert_eq!((honest.len(), cheats.len()), (2, 1));
        for miner in honest {
            assert!(cheats[0].weight < miner.weight / 10.0, "{}", report.table());
        }

        let client =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(40)).build().unwrap();
        let api = Api { base: format!("http://{}", first.api), client };
        api.answers_a_chat().await;
        api.answers_in_the_form_that_is_asked_for().await;
        api.streams_a_chat().await;
        api.answers_twice_calls_and_tells_who_it_was().await;
        api.refuses_by_name().await;
        api.tells_of_itself().await;

        let height = chain.finalized_block().await.unwrap().number;
        let validator_hotkey = first.validator_hotkey;
        drop(chain);
        let addresses = [first.api, first.rpc, first.checking];
        first.stop().await;
        nobody_listens(addresses).await;
        let stored = Evidence::open(&options.data).await;
        let judged = stored.judged().await;
        assert!(!judged.is_empty());
        stored.close().await;

        let second = start(&options).await;
        assert_eq!(second.validator_hotkey, validator_hotkey);
        let remembered =
            second.validator.confirmed_weights().borrow().as_ref().map(|set| set.block.0);
        assert!(remembered >= Some(block), "{remembered:?} {block}");
        let hotkeys: BTreeSet<Hotkey> = report.miners.iter().map(|miner| miner.hotkey).collect();
        until_status(&second.validator, "earlier evidence is scored again", |status| {
            let scored =
                status.rows.iter().filter(|row| row.quality.is_some()).map(|row| row.hotkey);
            (scored.collect::<BTreeSet<_>>() == hotkeys).then_some(())
        })
        .await;
        let chain = look_at_chain(second.rpc).await;
        assert!(chain.finalized_block().await.unwrap().number > height);
        let stored = Evidence::open(&options.data).await;
        assert!(stored.judged().await.is_superset(&judged));
        stored.close().await;
        second.stop().await;
    })
    .await;
}

/// Waits for weights that reward every honest miner, and compares them with the chain's. Returns their block too.
async fn everybody_honest_has_weight(localnet: &Localnet, chain: &Chain) -> (Report, u64) {
    eventually("every honest miner has weight", async || {
        let status = localnet.validator.status().await.unwrap();
        let block = status.weights_block?;
        let report = Report::new(&status, &localnet.cheats, None);
        let mut honest = report.miners.iter().filter(|miner| miner.honest);
        if report.miners.len() < 3 || !honest.all(|miner| miner.weight > 0.0) {
            return None;
        }
        let metagraph = chain.metagraph(localnet.netuid).await.unwrap();
        let own = metagraph.neuron(&localnet.validator_hotkey).unwrap().uid;
        let on_chain = chain.weights(localnet.netuid, MechanismId(0), own).await.unwrap();
        // Newer weights may have come in between; then this is no comparison.
        if localnet.validator.status().await.unwrap().weights_block != Some(block) {
            return None;
        }
        let total: f64 = on_chain.iter().map(|(_, weight)| f64::from(*weight)).sum();
        for MinerReport { uid, hotkey, weight, .. } in &report.miners {
            assert_eq!(metagraph.neuron(hotkey).unwrap().uid, *uid);
            let stored =
                on_chain.iter().find(|(neuron, _)| neuron == uid).map_or(0, |(_, weight)| *weight);
            let share = f64::from(stored) / total;
            assert!((share - weight).abs() < 1e-9, "{share} on chain\n{}", report.table());
        }
        Some((report, block.0))
    })
    .await
}

async fn nobody_listens(addresses: [SocketAddr; 3]) {
    for address in addresses {
        assert!(TcpStream::connect(address).await.is_err(), "{address} still takes connections");
    }
}

/// The validator's API as a user sees it: plain JSON, none of our types.
struct Api {
    base: String,
    client: reqwest::Client,
}

fn question() -> Value {
    json!({
        "model": "chat-demo",
        "messages": [{"role": "user", "content": "Tell me a short story about a fox."}],
        "temperature": 0,
        "max_tokens": 40,
    })
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[track_caller]
fn assert_readable(text: &str) {
    let words =
        text.split_whitespace().filter(|word| word.chars().any(char::is_alphabetic)).count();
    assert!(words >= 3 && !text.contains(char::REPLACEMENT_CHARACTER), "{text:?}");
}

impl Api {
    async fn ask(&self, body: &Value) -> (u16, String) {
        let url = format!("{}/v1/chat/completions", self.base);
        let response = self.client.post(url).json(body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// All miners may be busy with synthetic queries for a moment; users are told to come again.
    async fn ask_until_answered(&self, body: &Value) -> String {
        eventually("a miner has time for a user", async || match self.ask(body).await {
            (200, answer) => Some(answer),
            (429 | 503, _) => None,
            (status, answer) => panic!("{status} {answer}"),
        })
        .await
    }

    async fn answers_a_chat(&self) {
        let answer: Value =
            serde_json::from_str(&self.ask_until_answered(&question()).await).unwrap();
        assert_eq!(answer["object"], "chat.completion");
        assert_eq!(answer["model"], "chat-demo");
        assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
        assert_readable(answer["choices"][0]["message"]["content"].as_str().unwrap());
        let usage = &answer["usage"];
        let tokens = |name: &str| usage[name].as_u64().unwrap();
        assert!(
            tokens("prompt_tokens") > 0 && (1..=40).contains(&tokens("completion_tokens")),
            "{usage}"
        );
        assert_eq!(tokens("total_tokens"), tokens("prompt_tokens") + tokens("completion_tokens"));
        assert!(answer.get("receipt").is_none(), "receipts are between miner and validator");
    }

    async fn answers_in_the_form_that_is_asked_for(&self) {
        let schema = json!({"type": "object", "properties": {"animal": {"enum": ["fox", "owl"]}},
            "required": ["animal"], "additionalProperties": false});
        let format =
            json!({"type": "json_schema", "json_schema": {"name": "animal", "schema": schema}});
        let body = with(question(), json!({"response_format": format, "frequency_penalty": 0.5}));
        let answer: Value = serde_json::from_str(&self.ask_until_answered(&body).await).unwrap();
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let said: Value = serde_json::from_str(text).unwrap();
        assert!(said == json!({"animal": "fox"}) || said == json!({"animal": "owl"}), "{said}");
    }

    async fn streams_a_chat(&self) {
        let body =
            with(question(), json!({"stream": true, "stream_options": {"include_usage": true}}));
        let answer = self.ask_until_answered(&body).await;
        let mut events: Vec<_> =
            answer.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(events.pop(), Some("[DONE]"), "{answer}");
        let events: Vec<Value> =
            events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        let delta = |event: &Value, field: &str| {
            event["choices"][0]["delta"][field].as_str().map(str::to_owned)
        };
        assert_eq!(delta(&events[0], "role").as_deref(), Some("assistant"), "{answer}");
        let text: String = events.iter().filter_map(|event| delta(event, "content")).collect();
        assert_readable(&text);
        let (usage, parts) = events.split_last().unwrap();
        assert_eq!(usage["choices"], json!([]));
        assert!(usage["usage"]["completion_tokens"].as_u64().unwrap() > 0, "{usage}");
        let ends =
            parts.iter().filter(|part| part["choices"][0]["finish_reason"].is_string()).count();
        assert_eq!(ends, 1, "{answer}");
        assert!(!answer.contains("receipt"), "{answer}");
    }

    async fn answers_twice_calls_and_tells_who_it_was(&self) {
        let color = json!({"type": "object", "properties": {"color": {"enum": ["red", "blue"]}},
                           "required": ["color"], "additionalProperties": false});
        let format =
            json!({"type": "json_schema", "json_schema": {"name": "color", "schema": color}});
        let several =
            with(question(), json!({"n": 2, "temperature": 1, "response_format": format}));
        let answer: Value = serde_json::from_str(&self.ask_until_answered(&several).await).unwrap();
        let choices = answer["choices"].as_array().unwrap();
        assert_eq!(choices.len(), 2);
        for choice in choices {
            let text = choice["message"]["content"].as_str().unwrap();
            let chosen: Value = serde_json::from_str(text).unwrap();
            assert!(chosen["color"] == "red" || chosen["color"] == "blue", "{text}");
        }
        let tool = json!({"type": "function", "function": {"name": "paint", "parameters": color}});
        let forced = with(question(), json!({"tools": [tool], "tool_choice": "required"}));
        let answer: Value = serde_json::from_str(&self.ask_until_answered(&forced).await).unwrap();
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
        let call = &choice["message"]["tool_calls"][0]["function"];
        assert_eq!(call["name"], "paint", "{answer}");

        let id = answer["id"].as_str().unwrap();
        let receipt = self.client.get(format!("{}/v1/receipts/{id}", self.base)).send().await;
        let receipt: Value = receipt.unwrap().json().await.unwrap();
        assert!(receipt["choices"][0]["miner"]["hotkey"].is_string(), "{receipt}");
    }

    async fn refuses_by_name(&self) {
        let (status, body) = self.ask(&with(question(), json!({"top_k": 5}))).await;
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &error["error"]["param"]), (400, &json!("top_k")), "{body}");
        assert!(error["error"]["message"].as_str().unwrap().contains("top_k"), "{body}");
        let (status, body) = self.ask(&with(question(), json!({"model": "no-such-model"}))).await;
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &error["error"]["code"]), (404, &json!("model_not_found")), "{body}");
        for field in ["message", "type"] {
            assert!(error["error"][field].is_string(), "{body}");
        }
    }

    async fn tells_of_itself(&self) {
        let get = async |path: &str| {
            let response = self.client.get(format!("{}{path}", self.base)).send().await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
            response.text().await.unwrap()
        };
        let health: Value = serde_json::from_str(&get("/health").await).unwrap();
        assert!(health.to_string().contains("\"contenders\":6"), "{health}");
        assert!(get("/metrics").await.contains("touchstone_validator_"));
        let models: Value = serde_json::from_str(&get("/v1/models").await).unwrap();
        assert_eq!(models["data"][0]["id"], "chat-demo");
    }
}
