// RoPE tables and angles, bit for bit (architecture report A.14), and the mHC check vector (A.15).

#include "model/rope.h"

#include <gtest/gtest.h>

#include "checkpoint/synth.h"
#include "model/hyper_connections.h"
#include "tensor/formats.h"

namespace hadal {
namespace {

checkpoint::ModelConfig flash() {
  const auto json = checkpoint::load_config_json("flash");
  return checkpoint::parse_config(json::dump(json.value()), "flash").value();
}

constexpr uint32_t kPlain[32] = {0x3f800000, 0x3f3ff911, 0x3f0ff59a, 0x3ed7e89b, 0x3ea1e89b, 0x3e72d423, 0x3e361887,
                                 0x3e088d77, 0x3dcccccd, 0x3d99940d, 0x3d6655c2, 0x3d2cba15, 0x3d0186e3, 0x3cc2434f,
                                 0x3c91ad39, 0x3c5a7bf2, 0x3c23d70a, 0x3bf5b9b0, 0x3bb8449c, 0x3b8a2e77, 0x3b4f3e38,
                                 0x3b1b690d, 0x3ae91528, 0x3aaec98e, 0x3a83126f, 0x3a44948c, 0x3a136a16, 0x39dd1725,
                                 0x39a5cb60, 0x3978a815, 0x393a7753, 0x390bd472};
constexpr uint32_t kYarn[32] = {0x3f800000, 0x3f300a3a, 0x3ef21c1f, 0x3ea67d01, 0x3e64f92e, 0x3e1d7475, 0x3dd88cb4,
                                0x3d94e963, 0x3d4ccccd, 0x3d0cd4fb, 0x3cc1b019, 0x3c8530ce, 0x3c372dbf, 0x3bfbed88,
                                0x3bad3d5e, 0x3b6e4237, 0x3b147ae1, 0x3ab714e0, 0x3a5ebdb6, 0x3a0530ce, 0x399bb3af,
                                0x39305978, 0x38be904d, 0x383e9b5f, 0x37a3d70c, 0x36b443d0, 0x3677eba6, 0x362a7be8,
                                0x35ea77ff, 0x35a13bdc, 0x355dbf30, 0x35187c4d};

TEST(Rope, FrequenciesHaveTheCanonicalBits) {
  for (const bool compressed : {false, true}) {
    const auto table = model::RopeTable::make(flash(), compressed);
    ASSERT_EQ(table.n_pairs(), 32);
    for (size_t i = 0; i < 32; ++i) {
      SCOPED_TRACE(i);
      const uint32_t expected = compressed ? kYarn[i] : kPlain[i];
      EXPECT_EQ(bits_of(table.frequencies()[i]), expected);
    }
  }
}

TEST(Rope, AnglesAtTheLastPositionHaveTheCanonicalBits) {
  const struct {
    bool compressed;
    size_t i;
    uint32_t cos, sin;
  } cases[] = {{false, 0, 0x3f49bd23, 0xbf1d9959}, {false, 1, 0x3dbb744f, 0xbf7eece6},
               {true, 1, 0x3f547c5d, 0x3f0ec760},  {true, 2, 0xbf7a5ec0, 0x3e559263},
               {true, 8, 0xbe8dfc82, 0x3f75f594},  {true, 20, 0xbf6d2ef3, 0xbec0aa7a},
               {true, 31, 0x3f53e9cc, 0x3f0fa08f}};
  for (const auto& c : cases) {
    float cos[32], sin[32];
    model::RopeTable::make(flash(), c.compressed).angles(1048575, cos, sin);
    EXPECT_EQ(bits_of(cos[c.i]), c.cos) << c.i;
    EXPECT_EQ(bits_of(sin[c.i]), c.sin) << c.i;
  }
}

TEST(HyperConnections, SplitMatchesTheCheckVector) {
  float mix[24], base[24], pre[4], post[4], comb[16];
  const float scale[] = {0.5f, 0.25f, 1.0f};
  for (int k = 0; k < 24; ++k) {
    mix[k] = static_cast<float>((5 * k * k) % 13 - 6) / 4.0f;
    base[k] = 0.01f * static_cast<float>(k);
  }
  model::hc_split(mix, scale, base, 4, 20, 1e-6f, pre, post, comb);
  const float expected_pre[] = {0.3208223f, 0.4712827f, 0.5361876f, 0.5075005f};
  const float expected_post[] = {0.8953842f, 1.0872774f, 1.1841259f, 1.1889518f};
  const float expected_comb[] = {0.305079f, 0.197664f, 0.287665f, 0.209591f, 0.206571f, 0.171854f,
                                 0.321138f, 0.300435f, 0.129697f, 0.138546f, 0.332428f, 0.399328f,
                                 0.358652f, 0.491935f, 0.058768f, 0.090645f};
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(pre[i], expected_pre[i], 2e-7f);
    EXPECT_NEAR(post[i], expected_post[i], 3e-7f);
  }
  for (int i = 0; i < 16; ++i) EXPECT_NEAR(comb[i], expected_comb[i], 1e-6f);
}

}  // namespace
}  // namespace hadal
