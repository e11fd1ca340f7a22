//! What passes, in every pair of protocols, as it came.

use super::*;

#[tokio::test]
async fn every_pair_of_protocols_works_and_keeps_its_connection() {
    for upstream_h2 in [false, true] {
        let bench = bench_over(upstream_h2, None, answers(message_json(7, 5))).await;
        for h2 in [false, true] {
            let mut client = bench.client(MODEL, h2).await;
            for _ in 0..3 {
                let request = bench.request(MODEL, "POST", "/v1/messages", prompt(100), h2);
                let answer = client.send(request).await.unwrap();
                assert_eq!(answer.status(), 200, "{h2} {upstream_h2}");
                assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), message_json(7, 5));
            }
        }
        assert_eq!(bench.events("usage").await.len(), 6);
        assert_eq!(bench.counted().await, 72);
    }
}

#[tokio::test]
async fn an_echo_of_the_credential_does_not_reach_the_bottle() {
    let echo: Script = Arc::new(|seen| {
        let key = seen.headers["x-api-key"].to_str().unwrap().to_owned();
        Response::builder()
            .status(401)
            .header("x-echo", &key)
            .header("alt-svc", "h3=\":443\"")
            .header("set-cookie", "account=1")
            .body(full(format!("bad key {key}, sorry")))
            .unwrap()
    });
    let bench = bench(None, echo).await;
    let (status, headers, body) = bench.message().await;
    assert_eq!(status, 401);
    assert!(!format!("{headers:?}").contains(SECRET));
    assert!(!headers.contains_key("alt-svc") && !headers.contains_key("set-cookie"));
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert_eq!(body, format!("bad key {}, sorry", "*".repeat(SECRET.len())));
}

#[tokio::test]
async fn bodies_pass_in_both_directions_as_they_came() {
    let bench = bench(None, Arc::new(|seen: &Seen| Response::new(full(seen.body.clone())))).await;
    let big: Bytes = (0..3_000_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect::<Vec<_>>().into();
    for h2 in [false, true] {
        let mut client = bench.client(PLAIN, h2).await;
        let request = bench.request(PLAIN, "PUT", "/open/big", big.clone(), h2);
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.into_body().collect().await.unwrap().to_bytes() == big, "h2 {h2}");
    }
    bench.handle.close();
    bench.handle.drained().await;
    let passed = bench.events("request").await;
    assert_eq!(passed.len(), 2);
    assert_eq!((passed[0]["path"].as_str(), passed[0]["status"].as_u64()), (Some("/open/big"), Some(200)));
}
