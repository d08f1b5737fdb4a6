#include "tools/bench/bench.h"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "chatglm/error.h"
#include "model/tiny_model.h"
#include "text/json.h"
#include "tools/arguments.h"
#include "tools/bench/report.h"

using namespace chatglm;
using chatglm::test::TemporaryFile;
using chatglm::test::TinyModel;

namespace {

// Multiply-adds of the matrices of a layer, or of the output, for one row.
double layer_products(const TinyModel& m) {
    const double q = m.heads * m.head_dim, kv = m.kv_heads * m.head_dim;
    return m.hidden * (q + 2 * kv) + m.hidden * q + 3.0 * m.hidden * m.ffn;
}
double output_products(const TinyModel& m) {
    return static_cast<double>(m.vocab) * m.hidden;
}

class Rows : public BenchListener {
  public:
    void on_ready(const Bench&, const MeasuredCeilings& ceilings) override {
        ready.push_back(ceilings.n_threads);
    }
    void on_row(const BenchRow& row) override { rows.push_back(row); }
    std::vector<int> ready;
    std::vector<BenchRow> rows;
};

BenchOptions small_options() {
    BenchOptions options;
    options.prompts = {3};
    options.tokens = {2};
    options.threads = {1};
    options.repetitions = 2;
    return options;
}

}  // namespace

TEST_CASE("a sample counts the products and the bytes that the forward pass needs") {
    TinyModel tiny;
    tiny.type = DType::q8_0;
    const TemporaryFile file(tiny.build());
    Bench bench(file.path(), 1, "f32");
    const double layers = tiny.layers;
    const double head_products = 2.0 * tiny.heads * tiny.head_dim;  // of one visible token
    const double slot_bytes = 2.0 * tiny.kv_heads * tiny.head_dim * 4;
    const double weight_bytes = (layers * layer_products(tiny) + output_products(tiny)) / 32 * 34;

    const Work prompt = bench.prompt(5, 10).work;
    CHECK(prompt.products.at(DType::q8_0) ==
          doctest::Approx(5 * layers * layer_products(tiny) + output_products(tiny)));
    CHECK(prompt.attention_products == doctest::Approx((11 + 12 + 13 + 14 + 15) * layers * head_products));
    CHECK(prompt.bytes == doctest::Approx(weight_bytes + 15 * layers * slot_bytes));

    const Work decode = bench.decode(2, 10, 3).work;
    CHECK(decode.products.at(DType::q8_0) ==
          doctest::Approx(2 * 3 * (layers * layer_products(tiny) + output_products(tiny))));
    CHECK(decode.attention_products == doctest::Approx(3 * (11 + 12) * layers * head_products));
    CHECK(decode.bytes == doctest::Approx(2 * weight_bytes + 3 * (11 + 12) * layers * slot_bytes));
    CHECK(decode.product_seconds > 0);
    CHECK(decode.attention_seconds > 0);
}

TEST_CASE("samples of any sizes follow one another, after an interruption too") {
    const TemporaryFile file(TinyModel().build());
    Bench bench(file.path(), 2, "f16");
    for (const int depth : {0, 70, 1}) {
        for (const int batch : {1, 4, 2}) CHECK(bench.decode(3, depth, batch).seconds > 0);
        CHECK_THROWS_AS(bench.prompt(7, depth, [] { return true; }), Interrupted);
        CHECK(bench.prompt(700, depth).work.attention_products > 0);
    }
}

TEST_CASE("every combination of the lists gives a row whose numbers make sense") {
    const TemporaryFile file(TinyModel().build());
    BenchOptions options = small_options();
    options.prompts = {3, 5};
    options.depths = {0, 4};
    options.batches = {1, 2, 3};
    options.threads = {1, 2};
    options.kv_dtypes = {"q8_0", "f32"};
    Rows found;
    run_bench(file.path(), options, found);
    CHECK(found.ready == std::vector<int>{1, 1, 2, 2});
    REQUIRE(found.rows.size() == 2 * 2 * 2 * (2 + 3));
    for (const BenchRow& row : found.rows) {
        CAPTURE(row.is_prompt);
        CAPTURE(row.batch);
        CHECK(row.slowest > 0);
        CHECK(row.slowest <= row.tokens_per_second);
        CHECK(row.tokens_per_second <= row.fastest);
        CHECK(std::isfinite(row.fastest));
        for (const double rate : {row.bytes_per_second, row.products_per_second, row.memory_share,
                                  row.compute_share, row.matmul_time, row.attention_time}) {
            CHECK(rate > 0);
            CHECK(std::isfinite(rate));
        }
        CHECK(row.other_time >= 0);
        CHECK(row.matmul_time + row.attention_time + row.other_time == doctest::Approx(1));
        CHECK(row.resident_bytes > 0);
    }
    const BenchRow& last = found.rows.back();
    CHECK(!last.is_prompt);
    CHECK((last.depth == 4 && last.batch == 3 && last.n_threads == 2 && last.kv_dtype == "f32"));
}

TEST_CASE("sizes that cannot be measured are refused with the reason") {
    const auto refused = [](auto change) {
        BenchOptions options = small_options();
        change(options);
        CHECK_THROWS_AS(options.validate(), InvalidArgument);
    };
    small_options().validate();
    refused([](BenchOptions& o) { o.prompts = {-1}; });
    refused([](BenchOptions& o) { o.tokens = {1 << 30}; });
    refused([](BenchOptions& o) { o.depths = {0, -5}; });
    refused([](BenchOptions& o) { o.batches = {0}; });
    refused([](BenchOptions& o) { o.threads = {100000}; });
    refused([](BenchOptions& o) { o.kv_dtypes = {"q4_0"}; });
    refused([](BenchOptions& o) { o.repetitions = 0; });
    refused([](BenchOptions& o) { o.prompts = o.tokens = {0}; });
    refused([](BenchOptions& o) { o.depths = {}; });

    TinyModel tiny;
    const TemporaryFile file(tiny.build());
    Bench bench(file.path(), 1, "f16");
    CHECK_THROWS_WITH_AS(bench.prompt(100, 4000), doctest::Contains("4096"), InvalidArgument);
    CHECK_THROWS_AS(bench.decode(1, 0, 0), InvalidArgument);
}

TEST_CASE("reports in every format hold every row") {
    const TemporaryFile file(TinyModel().build());
    for (const char* format : {"text", "json", "csv", "md"}) {
        CAPTURE(format);
        std::string text;
        const auto report =
            BenchReport::make(format, "a,\"b\".gguf", [&](const std::string& part) { text += part; });
        run_bench(file.path(), small_options(), *report);
        report->finish();
        CHECK(text.find("pp3") != std::string::npos);
        CHECK(text.find("tg2") != std::string::npos);
        CHECK(text.back() == '\n');
        if (std::string_view(format) == "json") {
            const Json json = Json::parse(text);
            REQUIRE(json.find("rows"));
            CHECK(json.find("rows")->array()->size() == 2);
            CHECK(json.find("ceilings")->array()->size() == 1);
            CHECK(*json.find("model")->find("path")->string() == "a,\"b\".gguf");
        }
        if (std::string_view(format) == "csv") {
            CHECK(std::count(text.begin(), text.end(), '\n') == 3);
            CHECK(text.find("\"a,\"\"b\"\".gguf\"") != std::string::npos);
        }
    }
    CHECK_THROWS_AS(BenchReport::make("xml", "", nullptr), InvalidArgument);
}

TEST_CASE("lists are cut at their commas, and what is no number is refused") {
    CHECK(parse_integers("--depths", "0,128,-1") == std::vector<int>{0, 128, -1});
    CHECK(parse_list("f16,f32") == std::vector<std::string>{"f16", "f32"});
    for (const char* wrong : {"", ",", "1,", "a", "1,2.5", "99999999999"}) {
        CHECK_THROWS_WITH_AS(parse_integers("--depths", wrong), doctest::Contains("--depths"),
                             InvalidArgument);
    }
}
