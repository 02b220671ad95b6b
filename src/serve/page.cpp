#include "serve/page.h"

namespace hadal::serve {
namespace {

// A model may write anything into the page. No script but ours runs, nothing is loaded from or sent to elsewhere, and
// no string becomes markup but through the sanitizer.
constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types dompurify";

}  // namespace

bool serve_page(const HttpRequest& request, HttpReply& reply, Headers headers) {
  if (request.method != "GET" && request.method != "HEAD") return false;
  const std::string_view path = request.path == "/" ? std::string_view("/index.html") : request.path;
  for (int i = 0; i < kPageFileCount; ++i) {
    const PageFile& file = kPageFiles[i];
    if (path != file.path) continue;
    const std::string tag = '"' + std::string(file.tag) + '"';
    headers.emplace_back("etag", tag);
    headers.emplace_back("cache-control", "no-cache");  // ask, and mostly get a 304: a new program shows at once
    headers.emplace_back("content-security-policy", kPolicy);
    headers.emplace_back("x-content-type-options", "nosniff");
    headers.emplace_back("referrer-policy", "no-referrer");
    headers.emplace_back("cross-origin-opener-policy", "same-origin");
    if (request.header("if-none-match") == tag) {
      reply.send(304, std::move(headers), "");
      return true;
    }
    headers.emplace_back("content-type", std::string(file.type) + "; charset=utf-8");
    reply.send(200, std::move(headers), std::string(file.content));
    return true;
  }
  return false;
}

}  // namespace hadal::serve
