// The web page at /: the files of src/serve/page/, which the build puts into the program (cmake/hadal.cmake), with the
// headers that keep a browser from loading or running anything else.
#pragma once

#include <string>
#include <string_view>

#include "serve/http.h"

namespace hadal::serve {

struct PageFile {
  std::string_view path, type, tag, content;  // tag: a digest of the content
};
extern const PageFile kPageFiles[];  // generated
extern const int kPageFileCount;

// Answers GET and HEAD of the page's files. false: it is for none of them.
bool serve_page(const HttpRequest& request, HttpReply& reply, Headers headers);

}  // namespace hadal::serve
